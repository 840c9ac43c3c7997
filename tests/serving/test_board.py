"""Notes between processes: whole or not there, whoever writes and whoever dies."""

import os
import signal
import time

import pytest

from serving.board import PAGE, Board


def test_a_note_is_read_as_it_was_written() -> None:
    board = Board.create(("target", "worker 0"))
    assert board.names == ("target", "worker 0")
    assert (board.read("target"), board.turn("target")) == ({}, 0)
    board.write("target", {"serial": 1, "bundle": "ä"})
    board.write("target", {"serial": 2, "bundle": "ö"})
    assert (board.read("target"), board.turn("target")) == ({"serial": 2, "bundle": "ö"}, 2)
    assert board.read("worker 0") == {}
    with pytest.raises(KeyError):
        board.read("worker 1")


def test_a_note_that_is_too_long_leaves_the_one_before() -> None:
    board = Board.create(("target",))
    board.write("target", {"a": 1})
    with pytest.raises(ValueError, match=f"expected at most {PAGE - 8}"):
        board.write("target", {"a": "x" * PAGE})
    assert board.read("target") == {"a": 1}


def test_a_reader_in_another_process_never_sees_half_a_note() -> None:
    board = Board.create(("target", "reader"))
    board.write("target", {"n": 0, "text": ""})
    if (pid := os.fork()) == 0:
        try:
            seen = 0
            while seen < 2000:
                note = board.read("target")
                if note["text"] != "x" * (note["n"] % 5000):
                    board.write("reader", {"wrong": note["n"]})
                    os._exit(1)
                seen += 1
        finally:
            os._exit(0)
    for n in range(200_000):
        board.write("target", {"n": n, "text": "x" * (n % 5000)})
        if n % 100 == 0 and os.waitpid(pid, os.WNOHANG)[0]:
            break
    else:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        pytest.fail("the reader did not get on")
    assert board.read("reader") == {}


def test_a_writer_that_is_killed_leaves_a_whole_note() -> None:
    board = Board.create(("note",))
    for _ in range(20):
        if (pid := os.fork()) == 0:
            n = 0
            while True:
                n += 1
                board.write("note", {"n": n, "text": "x" * (n % 3000)})
        time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        note = board.read("note")
        assert note.get("text", "") == "x" * (note.get("n", 0) % 3000)
