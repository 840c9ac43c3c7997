"""Files that may be replaced while the service runs: are they still those that were read?"""

import time
from collections.abc import Sequence
from pathlib import Path

State = tuple[tuple[int, int, int] | None, ...]


class FileWatch:
    """Tells files apart by time of change, size and inode, which costs a few microseconds.

    Make it before the files are read for the first time, so that no change between the two is lost.

    Args:
        paths: the files; one that is missing counts as changed when it appears.
        period: seconds in which it looks once at most.
    """

    def __init__(self, paths: Sequence[Path], period: float = 0.0) -> None:
        self._paths = tuple(paths)
        self._period = period
        self._seen = self.state()
        self._next = time.monotonic() + period

    def changed(self) -> bool:
        """Whether the files differ from what they were at the last change that this told of."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._period
        before, self._seen = self._seen, self.state()
        return self._seen != before

    def state(self) -> State:
        """What tells the files from other ones of the same names."""
        return tuple(map(_state, self._paths))


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
