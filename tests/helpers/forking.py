"""Forks of the test process, which may hold gRPC's objects and run its threads."""

import gc
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def fork(main: Callable[[], object]) -> int:
    """Run `main` in a fork of this process, which ends with it; gives its id.

    gRPC's threads do not exist in a fork, where an object of gRPC that is destroyed aborts or hangs the
    process. So the fork's garbage collector leaves alone all objects that it has from its parent.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        gc.freeze()
        main()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


@contextmanager
def forked(main: Callable[[], object]) -> Iterator[int]:
    """The id of a fork that runs `main`, and that is told to stop, and waited for, at the end."""
    pid = fork(main)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
