"""Entries of the shared state are complete or absent, also when the writing process dies."""

import os
import signal
import time
from itertools import count

import pytest

from tests.helpers.forking import fork
from tests.helpers.waiting import wait_until
from twinspire.serving.shared_state import PAGE, SharedState


def test_a_note_is_read_as_it_was_written() -> None:
    shared_state = SharedState(("target", "worker 0"))
    assert shared_state.names == ("target", "worker 0")
    assert (shared_state.read("target"), shared_state.version("target")) == ({}, 0)
    shared_state.write("target", {"serial": 1, "bundle": "ä"})
    shared_state.write("target", {"serial": 2, "bundle": "ö"})
    assert (shared_state.read("target"), shared_state.version("target")) == ({"serial": 2, "bundle": "ö"}, 2)
    assert shared_state.read("worker 0") == {}
    with pytest.raises(KeyError):
        shared_state.read("worker 1")


def test_a_note_that_is_too_long_leaves_the_one_before() -> None:
    shared_state = SharedState(("target",))
    shared_state.write("target", {"a": 1})
    with pytest.raises(ValueError, match=f"expected at most {PAGE - 8}"):
        shared_state.write("target", {"a": "x" * PAGE})
    assert shared_state.read("target") == {"a": 1}


def test_a_reader_in_another_process_never_sees_half_a_note() -> None:
    shared_state = SharedState(("target", "reader"))
    shared_state.write("target", {"n": 0, "text": ""})

    def read() -> None:
        for _ in range(2000):
            note = shared_state.read("target")
            if note["text"] != "x" * (note["n"] % 5000):
                shared_state.write("reader", {"wrong": note["n"]})
                return

    pid = fork(read)
    for n in range(200_000):
        shared_state.write("target", {"n": n, "text": "x" * (n % 5000)})
        if n % 100 == 0:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                assert os.waitstatus_to_exitcode(status) == 0  # it has not failed at half a note either
                break
    else:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        pytest.fail("the reader did not get on")
    assert shared_state.read("reader") == {}


def test_a_writer_that_is_killed_leaves_a_whole_note() -> None:
    shared_state = SharedState(("note",))

    def write() -> None:
        for n in count(1):
            shared_state.write("note", {"n": n, "text": "x" * (n % 3000)})

    for n in range(20):
        pid = fork(write)
        wait_until(lambda: "n" in shared_state.read("note"))  # it has written
        time.sleep(0.001 * n)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        note = shared_state.read("note")
        assert note["text"] == "x" * (note["n"] % 3000)
