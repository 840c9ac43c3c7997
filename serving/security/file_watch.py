"""Files that may be replaced while the service runs: detects changes, and keeps the last usable content."""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from twinspire.protos.errors import ConfigError

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0  # before unusable files are read again, even if they have not changed

Content = TypeVar("Content")


def identities(paths: Sequence[Path]) -> tuple[object, ...]:
    """What changes when a file is replaced or written to, of each file; None for one that is missing.

    A program can set a modification time back, but not the time of the last change of status.
    """
    found: list[object] = []
    for path in paths:
        try:
            stat = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino, stat.st_dev))
    return tuple(found)


class Reloaded(Generic[Content]):
    """The last usable content of files, which are read again when they have changed.

    If the files cannot be used, the content read before stays, an error is logged once, and the files are
    read again every `RETRY_SECONDS`.

    Args:
        paths: the files; the first one names them in the log.
        read: reads all of them; raises ConfigError.
        kept: explains in the log the effect of an unusable file.
        period: minimum seconds between two checks of the files.

    Attributes:
        content: the last usable content.
        error: why the files cannot be used now; empty if they can.

    Raises:
        ConfigError: the files cannot be used.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        read: Callable[[], Content],
        kept: str,
        period: float = 0.0,
    ) -> None:
        self.paths, self._period = tuple(paths), period
        self._read, self._kept = read, kept
        self._next = self._retry = time.monotonic() + period
        self._seen = identities(self.paths)  # before they are read, so that a change meanwhile is detected
        self.content = read()
        self.error = ""

    def refresh(self) -> bool:
        """Read the files again if they have changed; returns whether the content is new."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._period
        if identities(self.paths) == self._seen and not (self.error and now >= self._retry):
            return False
        self._seen = identities(self.paths)
        before, self.error = self.error, ""
        try:
            self.content = self._read()
        except ConfigError as error:
            self.error = str(error)
            self._retry = time.monotonic() + RETRY_SECONDS
            if self.error != before:
                log.error("%s; %s", error, self._kept)
        return not self.error
