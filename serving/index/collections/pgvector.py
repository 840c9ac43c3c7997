"""Reads of the collection of one bundle in PostgreSQL with pgvector.

A read takes a connection that no other read has, and opens one where there is none. One that the server has
ended, because it was started again, is replaced by another.
"""

import json
import time
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

from twinspire.protos.bundle import Manifest
from twinspire.protos.filter_kinds import KINDS
from twinspire.protos.vector_databases.database import check_collection, collection_name
from twinspire.protos.vector_databases.pgvector import (
    LIMITS,
    MAX_K,
    TITLE,
    Connection,
    PgvectorDatabase,
    Statement,
    connect,
    run,
    search_statements,
    search_width,
    server_errors,
    table,
    uri_of_environment,
    vector_of,
)
from twinspire.serving.filters.expression import Filter
from twinspire.serving.index.filter_text import Syntax
from twinspire.serving.index.remote import Once, RemoteHit, RemoteItem, Vectors, seconds_left


class PgvectorCollection:
    """The collection of one bundle; implements `RemoteCollection`, and is safe to call from several threads.

    Raises:
        ConfigError: the environment does not name the server.
    """

    max_k = MAX_K

    def __init__(self, manifest: Manifest) -> None:
        self.name, self._manifest = collection_name(manifest.bundle_version), manifest
        self._uri, self._once = uri_of_environment(), Once(TITLE)
        self._idle: deque[Connection] = deque()
        weakref.finalize(self, _close, self._idle)

    def expression(self, node: Filter) -> str:
        """As `RemoteCollection.expression`: a condition of SQL."""
        return SYNTAX.expression(node, self._manifest.filters)

    def search(
        self, vectors: Vectors, k: int, expression: str = "", is_exact: bool = False
    ) -> list[list[RemoteHit]]:
        """As `RemoteCollection.search`."""
        found = self._run(search_statements(self.name, vectors, k, _condition(expression)), k, is_exact)
        return [
            [(RemoteItem(item_id, json.loads(display)), -distance) for item_id, display, distance in hits]
            for hits in (sorted(each, key=lambda hit: hit[2]) for each in found)
        ]

    def get(self, item_ids: Sequence[str]) -> dict[str, RemoteItem]:
        """As `RemoteCollection.get`."""
        text = sql.SQL("SELECT id, display, vector::text FROM {} WHERE id = ANY(%s)").format(table(self.name))
        (found,) = self._run([(text, [[each for each in item_ids if LIMITS.holds(each)]])])
        return {each[0]: RemoteItem(each[0], json.loads(each[1]), vector_of(each[2])) for each in found}

    def count(self, expression: str) -> int:
        """As `RemoteCollection.count`."""
        text = sql.SQL("SELECT count(*) FROM {} WHERE {}").format(table(self.name), _condition(expression))
        (((count,),),) = self._run([(text, {})])
        return int(count)

    def _run(self, statements: list[Statement], k: int = 1, is_exact: bool = False) -> list[list[Any]]:
        """The rows of statements.

        Raises:
            BundleDamaged: the first read finds no collection, or one of another bundle.
            Unavailable: the server does not answer in the time that is left.
        """
        width = search_width(self._manifest.index, k)
        with server_errors():
            self._once.run(self._check)
            while True:
                try:
                    connection, is_new = self._idle.pop(), False
                except IndexError:
                    connection, is_new = connect(self._uri, seconds_left()), True
                try:
                    found = run(connection, statements, seconds_left(), width, is_exact)
                except BaseException as error:
                    connection.close()
                    is_ended = isinstance(error, psycopg.OperationalError) and not is_new
                    if is_ended and time.monotonic() < connection.until:
                        continue
                    raise
                self._idle.append(connection)
                return found

    def _check(self) -> None:
        connection = connect(self._uri, seconds_left())
        try:
            check_collection(PgvectorDatabase(connection), self.name, self._manifest, seconds_left())
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)


COLLECTION = PgvectorCollection


def _close(idle: deque[Connection]) -> None:
    for each in idle:
        each.close()


def _condition(expression: str) -> sql.Composable:
    """A condition in a statement that has parameters."""
    return sql.SQL(expression.replace("%", "%%") or "true")


def _literal(text: str) -> str | None:
    return sql.Literal(text).as_string(None) if LIMITS.holds(text) else None


def _any_of(n: int, kind: str, literals: Sequence[str]) -> str:
    is_text = KINDS[kind].dtype is None
    values = f"array[{', '.join(literals)}]{'::text[]' if is_text else ''}"
    return f"f{n} && {values}" if KINDS[kind].is_list else f"f{n} = any({values})"


SYNTAX = Syntax(
    never="false",
    present=lambda n: f"f{n} is not null",
    absent=lambda n: f"f{n} is null",
    literal=_literal,
    any_of=_any_of,
)
