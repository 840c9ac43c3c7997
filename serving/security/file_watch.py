"""Files that may be replaced while the service runs: detects changes, and keeps the last usable content."""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from twinspire.protos.errors import ConfigError

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0  # before unusable files are read again, even if they have not changed

Identity = tuple[int, ...]  # of one file
State = tuple[Identity | None, ...]
Content = TypeVar("Content")


class FileWatch:
    """Detects whether files were replaced or written to; a check takes a few microseconds.

    A file is unchanged while its modification time, status change time, size, inode and device are the same.
    A program can set the modification time back, but not the status change time.

    Create it before the files are read for the first time, so that a change between the two is detected.

    Args:
        paths: the files; a missing one counts as changed when it appears.
        period: minimum seconds between two checks of the files.
    """

    def __init__(self, paths: Sequence[Path], period: float = 0.0) -> None:
        self._paths = tuple(paths)
        self._period = period
        self._seen = self.state()
        self._next = time.monotonic() + period

    def changed(self) -> bool:
        """Whether the files differ from their state at the last call that returned True."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._period
        before, self._seen = self._seen, self.state()
        return self._seen != before

    def state(self) -> State:
        """The identity of each file; None for one that is missing."""
        return tuple(map(_identity, self._paths))


class Reloaded(Generic[Content]):
    """The last usable content of files, which are read again when they have changed.

    If the files cannot be used, the content read before stays, an error is logged once, and the files are
    read again every `RETRY_SECONDS`.

    Args:
        paths: the files; the first one names them in the log.
        read: reads all of them; raises ConfigError.
        describe: describes the content in the log.
        kept: explains in the log the effect of an unusable file.
        period: minimum seconds between two checks of the files.

    Attributes:
        content: the last usable content.
        error: why the files cannot be used now; empty if they can.
        quiet: whether successful reads are not logged; one process logs them for all.

    Raises:
        ConfigError: the files cannot be used.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        read: Callable[[], Content],
        describe: Callable[[Content], str],
        kept: str,
        period: float = 0.0,
    ) -> None:
        self._path = paths[0]
        self._read, self._describe, self._kept = read, describe, kept
        self._retry = 0.0
        self._watch = FileWatch(paths, period)
        self.content = read()
        self.error = ""
        self.quiet = False

    @property
    def description(self) -> str:
        """The file and its content, or why it cannot be used, for the log."""
        if self.error:
            return f"{self.error}; {self._kept}"
        return f"{self._path}: {self._describe(self.content)}"

    def refresh(self) -> bool:
        """Read the files again if they have changed; returns whether the content is new."""
        if not (self._watch.changed() or (self.error and time.monotonic() >= self._retry)):
            return False
        self._load()
        if not (self.error or self.quiet):
            log.info("%s: read again, %s", self._path, self._describe(self.content))
        return not self.error

    def reload(self) -> None:
        """Read the files again, whether they have changed or not; only a new error is logged."""
        self._watch.changed()
        self._load()

    def _load(self) -> None:
        """Read the files; if they cannot be used, keep the content, and log an error that is new."""
        before, self.error = self.error, ""
        try:
            self.content = self._read()
        except ConfigError as error:
            self.error = str(error)
            self._retry = time.monotonic() + RETRY_SECONDS
            if self.error != before:
                log.error("%s; %s", error, self._kept)


def _identity(path: Path) -> Identity | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev
