"""What processes log: lines on stderr, all of them JSON where the environment says so.

    TWINSPIRE_LOG_FORMAT=json python -m twinspire.serving serve ...

A line that is written while a request is answered has the request's id.
"""

import atexit
import io
import json
import logging
import os
import re
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

FORMAT = "TWINSPIRE_LOG_FORMAT"  # environment variable
TEXT, JSON = "text", "json"
REQUEST_ID = "x-request-id"  # header of HTTP, and metadata of gRPC
_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_request_id: ContextVar[str] = ContextVar("request_id", default="")


def log_to_stderr() -> None:
    """Write what the process logs to stderr, from INFO on, with time, level and module.

    With JSON, warnings of Python and uncaught exceptions are logged, too, and any other text on `sys.stderr`
    becomes lines of JSON.
    Only C libraries still write to the file itself.

    Raises:
        SystemExit: the environment names another format.
    """
    chosen = os.environ.get(FORMAT, TEXT)
    if chosen not in (TEXT, JSON):
        sys.stderr.write(f"error: {FORMAT}: expected {JSON} or {TEXT}, got {chosen!r}\n")
        raise SystemExit(2)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter(chosen == JSON))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    if chosen == JSON:
        logging.captureWarnings(True)
        sys.stderr = stream = JsonStream(handler)
        atexit.register(stream.end_lines)
        sys.excepthook = _log_uncaught
        threading.excepthook = lambda given: _log_uncaught(*given[:3])


def _log_uncaught(*error: Any) -> None:
    """Log an exception that ends the process, or a thread; as Python does, not the exit of a thread."""
    if error[0] is not SystemExit:
        logging.getLogger(__name__).critical("uncaught exception", exc_info=error)


def request_id() -> str:
    """The id of the request that is being answered; empty outside of one."""
    return _request_id.get()


def request_id_in(metadata: Sequence[tuple[str, str | bytes]]) -> str:
    """The id that a client sent: up to 128 letters, digits and `._:/+=@-`; empty if it sent no such id."""
    given = next((value for key, value in metadata if key == REQUEST_ID), "")
    return given if isinstance(given, str) and _SANE_ID.fullmatch(given) else ""


@contextmanager
def answering(given: str) -> Iterator[None]:
    """Lines that are logged in the block, and in tasks that it starts, have this id of a request."""
    token = _request_id.set(given)
    try:
        yield
    finally:
        _request_id.reset(token)


class LogFormatter(logging.Formatter):
    """Formats a record as a line with the id of its request, or as one JSON object."""

    def __init__(self, as_json: bool) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s%(request)s: %(message)s")
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """The record's line."""
        given = request_id()
        if not self._as_json:
            record.request = f" [{given}]" if given else ""
            return super().format(record)
        document = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
            "request_id": given,
            "traceback": self.formatException(record.exc_info) if record.exc_info else "",
        }
        return json.dumps({name: value for name, value in document.items() if value}, ensure_ascii=False)


class JsonStream(io.TextIOBase):
    """Writes each line of text as a JSON object, for what does not use `logging`."""

    def __init__(self, handler: Any) -> None:
        self._handler = handler
        self._rests: defaultdict[int, str] = defaultdict(
            str
        )  # thread -> its last line, which is not complete

    def end_lines(self) -> None:
        """Write the lines that are not complete."""
        rests, self._rests = self._rests, defaultdict(str)
        self.write("\n".join([*rests.values(), ""]))

    def write(self, text: str) -> int:
        """Write the lines that are complete."""
        thread = threading.get_ident()
        with self._handler.lock:  # which logging renews after a fork
            *lines, self._rests[thread] = (self._rests[thread] + text).split("\n")
            for line in filter(str.strip, lines):
                level = "ERROR" if line.startswith("error: ") else "WARNING"
                record = logging.makeLogRecord({"name": "stderr", "levelname": level, "msg": line})
                self._handler.stream.write(f"{self._handler.format(record)}\n")
        return len(text)
