"""Connections to PostgreSQL, on which statements are sent together and end in time.

    TWINSPIRE_PGVECTOR_URI   postgresql://user@host/database, as libpq reads it

Statements that are sent together take a connection that no others have, or open one where there is none. A
connection that the server has ended, because it was started again, is replaced by another.
"""

import logging
import math
import os
import time
import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import psycopg
from psycopg import sql
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict

from twinspire.protos.bundle import PGVECTOR
from twinspire.protos.errors import ConfigError, Unavailable
from twinspire.protos.vector_databases.database import CONNECT_SECONDS, uri_variable

URI = uri_variable(PGVECTOR)
TITLE = f"PostgreSQL ({URI})"

Statement = tuple[sql.SQL | sql.Composed, Sequence[Any] | Mapping[str, Any]]
Result = TypeVar("Result")
logging.getLogger("psycopg").setLevel(logging.CRITICAL)  # its warnings show the server's address


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that waits for the server until a moment, and is of no use after an error.

    Attributes:
        deadline: `time.monotonic()` at which a wait ends with an error.
    """

    deadline = math.inf

    def wait(self, gen: PQGen[Result], interval: float = 0.1, timeout: float | None = None) -> Result:
        """As of the base class, and no longer than until `deadline`."""
        if math.isfinite(self.deadline):
            timeout = max(self.deadline - time.monotonic(), 0.0)
        return super().wait(gen, interval, timeout)


@contextmanager
def server_errors() -> Iterator[None]:
    """Raise errors of psycopg as `Unavailable`, without their texts, which show the address."""
    try:
        yield
    except psycopg.Error as error:
        is_away = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
        what = "does not answer" if is_away else "refuses a statement"
        raise Unavailable(f"{TITLE} {what}: {type(error).__name__.lstrip('_')}") from None


class Connections:
    """Connections to the server that the environment names; for any thread, but not after a fork."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._uri = environment.get(URI, "").strip()
        if not self._uri:
            expected = "postgresql://user@host/database"
            raise ConfigError(f"{URI}: required for an index of kind {PGVECTOR}, such as {expected}")
        try:
            if not self._uri.startswith(("postgresql://", "postgres://")):
                raise ValueError
            conninfo_to_dict(self._uri)
        except (psycopg.Error, ValueError):
            raise ConfigError(f"{URI}: expected a URI that begins with postgresql://") from None
        self._idle: deque[Connection] = deque()
        weakref.finalize(self, _close, self._idle)

    def connect(self, seconds: float) -> Connection:
        """A new connection; the server has to answer within `seconds`, but two at least."""
        return Connection.connect(
            self._uri,
            connect_timeout=max(2, int(min(seconds, CONNECT_SECONDS))),
            autocommit=True,
            prepare_threshold=None,
            keepalives_idle=30,
            application_name="twinspire",
            client_encoding="utf8",
        )

    def run(
        self,
        statements: Sequence[Statement],
        seconds: float,
        settings: Mapping[str, Any] | None = None,
        is_repeatable: bool = True,
    ) -> list[list[Any]]:
        """The rows of statements, which are one transaction and take one way to the server and back.

        Args:
            seconds: that all may take.
            settings: of the server, for these statements.
            is_repeatable: false for statements that fail if they are run twice; they get a new connection.

        Raises:
            Unavailable: the server does not answer in time, or refuses a statement.
        """
        # A compiled plan of a search takes longer to make than the search.
        given = {"statement_timeout": math.ceil(1000 * seconds), "jit": "off", **(settings or {})}
        values = [str(text) for pair in given.items() for text in pair]
        set_all = ", ".join(["set_config(%s, %s, true)"] * (len(values) // 2))
        deadline = time.monotonic() + seconds
        while True:
            with server_errors():
                connection = None
                if is_repeatable:
                    with suppress(IndexError):
                        connection = self._idle.pop()
                is_new = connection is None
                connection = connection or self.connect(deadline - time.monotonic())
                connection.deadline = deadline
                try:
                    with connection.pipeline():
                        connection.execute(f"SELECT {set_all}", values)
                        cursors = [connection.execute(*each) for each in statements]
                    found = [each.fetchall() if each.description else [] for each in cursors]
                except BaseException as error:
                    is_lost = isinstance(error, psycopg.OperationalError) and connection.closed
                    connection.close()
                    if is_lost and not is_new and time.monotonic() < deadline:
                        continue
                    raise
                self._idle.append(connection)
                return found

    def close(self) -> None:
        """End the connections that no statements use."""
        _close(self._idle)


def _close(idle: deque[Connection]) -> None:
    while idle:
        idle.pop().close()
