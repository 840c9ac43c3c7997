"""Opens files that users name, only if they are regular files: reading a FIFO or a device may block
forever.
"""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_KINDS = {
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a directory",
}


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file, or a link to one, for reading; never blocks.

    Raises:
        OSError: it cannot be opened, or is not a regular file; `strerror` has the reason.
    """
    check_regular(path)  # opening some devices has side effects
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check(os.fstat(descriptor).st_mode, path)  # the path may lead elsewhere by now
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def check_regular(path: Path) -> None:
    """Make sure, without opening it, that this is a regular file or a link to one.

    Raises:
        OSError: it is something else, or missing; `strerror` has the reason.
    """
    _check(path.stat().st_mode, path)


def _check(mode: int, path: Path) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "no file")
        raise OSError(errno.EINVAL, f"expected a regular file, got {kind}", str(path))
