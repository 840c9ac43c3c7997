"""One process at a time holds a lock, and a process that was killed holds none."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from twinspire.protos.errors import Unavailable
from twinspire.protos.files.file_lock import exclusive_lock, try_lock
from twinspire.train.paths import ROOT

HOLD = """
import sys, time
from pathlib import Path
from twinspire.protos.files.file_lock import exclusive_lock
with exclusive_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_holder_is_refused_until_the_first_process_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "made" / ".lock"
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == b"held\n"
        with pytest.raises(Unavailable, match="at work"), exclusive_lock(path, Unavailable("at work")):
            pytest.fail("both hold it")
        first.kill()
        first.wait(60)
        with exclusive_lock(path, Unavailable("at work")):
            pass
    finally:
        first.kill()
        first.communicate()


def test_a_holder_that_waits_says_so_and_comes_next(tmp_path: Path) -> None:
    path, waits, order = tmp_path / ".lock", threading.Event(), list[str]()

    def second() -> None:
        with exclusive_lock(path, on_wait=waits.set):
            order.append("second")

    thread = threading.Thread(target=second)
    with exclusive_lock(path, on_wait=lambda: pytest.fail("the lock is free")):
        thread.start()
        assert waits.wait(30)
        order.append("first")
    thread.join(30)
    assert order == ["first", "second"]


def test_an_error_of_the_block_is_not_that_of_the_lock(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError), exclusive_lock(tmp_path / ".lock", Unavailable("at work")):
        raise BlockingIOError


def test_a_file_that_was_replaced_or_is_locked_cannot_be_locked(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    opened = [os.open(path, os.O_RDWR) for _ in range(2)]
    assert try_lock(path, opened[0])
    assert not try_lock(path, opened[1])
    (tmp_path / "other").touch()
    (tmp_path / "other").rename(path)
    assert not try_lock(path, opened[0])
    path.unlink()
    assert not try_lock(path, opened[0])
    for each in opened:
        os.close(each)
