"""PostgreSQL with the extension pgvector: how its server is named, connected, written and asked.

    TWINSPIRE_PGVECTOR_URI   postgresql://user@host/database, as libpq reads it; needs pgvector 0.8 or newer

The collection of a bundle is a table. Its name has the first digits of the bundle's version, because names of
PostgreSQL have at most 63 characters; its comment has the version.

    id        text: the item's id, the primary key
    vector    vector(D): the item's vector, with an HNSW index of inner products
    display   text: the item's display fields as JSON
    f<n>      the value of filter field n, counted from 0 in ascending order of the names; null where the item
              has none. Lists are arrays with a GIN index, and others but booleans have a B-tree

A statement of a search is planned by the server with its filter: it reads the graph until enough items pass,
or all items that pass where they are few.
"""

import json
import logging
import math
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

import numpy as np
import psycopg
from psycopg import sql
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict

from twinspire.protos.bundle import PGVECTOR, IndexParameters
from twinspire.protos.errors import ConfigError, DataError, Unavailable
from twinspire.protos.filter_kinds import KINDS
from twinspire.protos.vector_databases.database import (
    CONNECT_SECONDS,
    FLAT_TYPE,
    PREFIX,
    WRITE_SECONDS,
    Described,
    ItemRow,
    Limits,
    Vectors,
    draft_seconds,
    index_type,
    uri_variable,
)

URI = uri_variable(PGVECTOR)
TITLE = f"PostgreSQL ({URI})"
OLDEST = (0, 8)  # version of pgvector, whose searches go on until enough items pass a filter
NAME_LENGTH = 58  # of a table; PostgreSQL allows 63
# A B-tree and a GIN index hold at most a third of a page of 8 KiB.
LIMITS = Limits("pgvector", 500, 2600, 1 << 26, 1 << 16, 1 << 26, re.compile("\x00"), "NUL characters")
WIDEST = 1000  # `hnsw.ef_search`
MAX_K = 16_384  # items that one search returns at most
QUERIES = 64  # that are sent at once
GRAPH_DIMENSIONS, GRAPH_LINKS, GRAPH_WIDTH = 2000, 100, 1000  # at most, of an HNSW index
BUILD_BYTES = 4 << 30  # of the server's memory that the build of a graph may take
_TYPES: Mapping[Any, str] = {
    np.float64: "float8",
    np.int8: "boolean",
    np.int64: "bigint",
    None: 'text COLLATE "C"',
}

EVERY = sql.SQL("true")  # a condition
Statement = tuple[sql.SQL | sql.Composed, Sequence[Any] | Mapping[str, Any]]
Result = TypeVar("Result")
logging.getLogger("psycopg").setLevel(logging.CRITICAL)  # its warnings show the server's address


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that waits for the server until a moment, and is of no use after an error.

    Attributes:
        until: `time.monotonic()` at which a wait ends with an error.
    """

    until = math.inf

    def wait(self, gen: PQGen[Result], interval: float = 0.1, timeout: float | None = None) -> Result:
        """As of the base class, and no longer than until `until`."""
        if math.isfinite(self.until):
            timeout = max(self.until - time.monotonic(), 0.0)
        return super().wait(gen, interval, timeout)


def uri_of_environment(environment: Mapping[str, str] = os.environ) -> str:
    """The server's address.

    Raises:
        ConfigError: the variable is missing, or is not a URI; its value is not shown.
    """
    uri = environment.get(URI, "").strip()
    if not uri:
        expected = "postgresql://user@host/database"
        raise ConfigError(f"{URI}: required for an index of kind {PGVECTOR}, such as {expected}")
    try:
        if not uri.startswith(("postgresql://", "postgres://")):
            raise ValueError
        conninfo_to_dict(uri)
    except (psycopg.Error, ValueError):
        raise ConfigError(f"{URI}: expected a URI that begins with postgresql://") from None
    return uri


def connect(uri: str, seconds: float) -> Connection:
    """A connection; the server has to answer within `seconds`, but two at least.

    Raises:
        psycopg.Error: it does not.
    """
    given: dict[str, Any] = {
        "keepalives_idle": 30,
        "application_name": "twinspire",
        "client_encoding": "utf8",
    }
    wait = max(2, int(seconds))
    return Connection.connect(uri, connect_timeout=wait, autocommit=True, prepare_threshold=None, **given)


@contextmanager
def server_errors() -> Iterator[None]:
    """Raise errors of psycopg as `Unavailable`, without their texts, which show the address."""
    try:
        yield
    except psycopg.Error as error:
        is_away = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
        what = "does not answer" if is_away else "refuses a statement"
        raise Unavailable(f"{TITLE} {what}: {type(error).__name__.lstrip('_')}") from None


def table(collection: str) -> sql.Identifier:
    """The table of a collection."""
    return sql.Identifier(collection[:NAME_LENGTH])


def search_statements(
    name: str, vectors: Vectors, k: int, condition: sql.Composable = EVERY
) -> list[Statement]:
    """For each query (Q, D) a search: id, display fields and negative inner product of the best `k` items."""
    text = sql.SQL(
        "SELECT id, display, vector <#> %(vector)s::vector FROM {} WHERE {} "
        "ORDER BY vector <#> %(vector)s::vector LIMIT %(k)s"
    ).format(table(name), condition)
    return [(text, {"vector": json.dumps(each.tolist()), "k": k}) for each in vectors]


def run(
    connection: Connection,
    statements: Sequence[Statement],
    seconds: float,
    width: int = 1,
    exact: bool = False,
) -> list[list[tuple[Any, ...]]]:
    """The rows of statements, which are one transaction and take one way to the server and back.

    Args:
        seconds: that all may take.
        width: of searches of a graph: `hnsw.ef_search`.
        exact: let no search read a graph.

    Raises:
        psycopg.Error: the server does not answer in time, or refuses a statement.
    """
    settings = {
        "statement_timeout": math.ceil(1000 * seconds),
        "jit": "off",  # compiles a plan for longer than a search takes
        "hnsw.ef_search": min(width, WIDEST),
        "hnsw.iterative_scan": "relaxed_order",
        "enable_indexscan": "off" if exact else "on",
    }
    connection.until = time.monotonic() + seconds
    set_all = ", ".join(["set_config(%s, %s, true)"] * len(settings))
    with connection.pipeline():
        connection.execute(f"SELECT {set_all}", [str(text) for pair in settings.items() for text in pair])
        cursors = [connection.execute(*each) for each in statements]
    return [each.fetchall() if each.description else [] for each in cursors]


class PgvectorDatabase:
    """A connection to PostgreSQL; implements `VectorDatabase`."""

    title: ClassVar[str] = TITLE
    packages: ClassVar[Sequence[str]] = ("psycopg", "psycopg-binary")
    limits: ClassVar[Limits] = LIMITS
    widest: ClassVar[int] = WIDEST

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    @classmethod
    def connect(cls, seconds: float = CONNECT_SECONDS) -> "PgvectorDatabase":
        """As `VectorDatabase.connect`."""
        with server_errors():
            return cls(connect(uri_of_environment(), seconds))

    def names(self) -> list[str]:
        """As `VectorDatabase.names`."""
        rows = self._rows(
            "SELECT relname, obj_description(oid, 'pg_class') FROM pg_class "
            "WHERE relkind = 'r' AND pg_table_is_visible(oid) AND starts_with(relname, %s)",
            [PREFIX],
        )
        found = (_name(*row) for row in rows)
        return [name for name in found if name]

    def describe(self, name: str, seconds: float = WRITE_SECONDS) -> Described | None:
        """As `VectorDatabase.describe`."""
        rows = self._rows(
            "SELECT attname, obj_description(attrelid, 'pg_class') FROM pg_attribute "
            "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
            [name[:NAME_LENGTH]],
            seconds,
        )
        if not rows:
            return None
        ((count,),) = self._rows(sql.SQL("SELECT count(*) FROM {}").format(table(name)), (), seconds)
        return Described(rows[0][1] or "", {row[0] for row in rows}, count)

    def fields(self, count: int) -> set[str]:
        """As `VectorDatabase.fields`."""
        return {"id", "vector", "display", *(f"f{n}" for n in range(count))}

    def create(
        self,
        name: str,
        vectors: Vectors,
        parameters: IndexParameters,
        kinds: Sequence[str],
        rows: Iterator[ItemRow],
        version: str,
    ) -> None:
        """As `VectorDatabase.create`, in one transaction; raises ConfigError for a database that cannot."""
        count, dimension = vectors.shape
        graph = index_type(parameters) != FLAT_TYPE
        if graph:
            _check_graph(parameters, dimension)
        self._expect_extension()
        columns = [
            sql.SQL('id text COLLATE "C"'),
            sql.SQL(f"vector vector({dimension})"),
            sql.SQL("display text"),
        ]
        indexes = [sql.SQL("ALTER TABLE {} ADD PRIMARY KEY (id)")]
        for n, kind in enumerate(kinds):
            is_list, held = KINDS[kind].is_list, _TYPES[KINDS[kind].dtype]
            columns.append(sql.SQL(f"f{n} {held.replace(' ', '[] ', 1) if is_list else held}"))
            if held != "boolean":
                indexes.append(sql.SQL(f"CREATE INDEX ON {{}} USING {'gin' if is_list else 'btree'} (f{n})"))
        if graph:
            options = f"m = {parameters.m:d}, ef_construction = {parameters.ef_construction:d}"
            indexes.append(
                sql.SQL(f"CREATE INDEX ON {{}} USING hnsw (vector vector_ip_ops) WITH ({options})")
            )
        place, cursor = table(name), self.connection.cursor()
        self.connection.until = math.inf  # a graph of many items takes long
        with server_errors(), self.connection.transaction():
            cursor.execute(sql.SQL("CREATE TABLE {} ({})").format(place, sql.SQL(", ").join(columns)))
            # Rows that are frozen are counted by an index alone.
            with cursor.copy(sql.SQL("COPY {} FROM STDIN WITH (FREEZE)").format(place)) as copy:
                for row, vector in zip(rows, vectors, strict=True):
                    copy.write_row((row.item_id, json.dumps(vector.tolist()), row.display, *row.values))
            # Without memory for the whole graph the build takes many times as long.
            needed = min(count * (4 * dimension + 40 * parameters.m + 300), BUILD_BYTES)
            cursor.execute(
                "SELECT set_config('maintenance_work_mem', greatest(%s, "
                "pg_size_bytes(current_setting('maintenance_work_mem')) / 1024)::text, true)",
                [needed // 1024],
            )
            for each in indexes:
                cursor.execute(each.format(place))
            cursor.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(place, sql.Literal(version)))
            cursor.execute(sql.SQL("ANALYZE {}").format(place))

    def read(
        self, name: str, item_ids: Sequence[str], kinds: Sequence[str]
    ) -> dict[str, tuple[ItemRow, Vectors]]:
        """As `VectorDatabase.read`."""
        text = "".join(f", f{n}" for n in range(len(kinds)))
        rows = self._rows(
            sql.SQL(f"SELECT id, display, vector::text{text} FROM {{}} WHERE id = ANY(%s)").format(
                table(name)
            ),
            [[each for each in item_ids if LIMITS.holds(each)]],
        )
        return {
            item_id: (ItemRow(item_id, display, tuple(values)), vector_of(vector))
            for item_id, display, vector, *values in rows
        }

    def rename(self, name: str, new: str) -> None:
        """As `VectorDatabase.rename`."""
        self._rows(sql.SQL("ALTER TABLE {} RENAME TO {}").format(table(name), table(new)))

    def drop(self, name: str, seconds: float = WRITE_SECONDS) -> None:
        """As `VectorDatabase.drop`."""
        self._rows(sql.SQL("DROP TABLE IF EXISTS {}").format(table(name)), (), seconds)

    def nearest(self, name: str, queries: Vectors, k: int, parameters: IndexParameters) -> list[list[str]]:
        """As `VectorDatabase.nearest`."""
        found: list[list[str]] = []
        width = search_width(parameters, k)
        with server_errors():
            for start in range(0, len(queries), QUERIES):
                statements = search_statements(name, queries[start : start + QUERIES], k)
                answers = run(self.connection, statements, WRITE_SECONDS, width)
                found += [[hit[0] for hit in sorted(hits, key=lambda each: each[2])] for hits in answers]
        return found

    def close(self) -> None:
        """As `VectorDatabase.close`."""
        self.connection.close()

    def _rows(
        self,
        statement: str | sql.SQL | sql.Composed,
        values: Sequence[Any] = (),
        seconds: float = WRITE_SECONDS,
    ) -> list[tuple[Any, ...]]:
        text = sql.SQL(statement) if isinstance(statement, str) else statement
        with server_errors():
            return run(self.connection, [(text, values)], seconds)[0]

    def _expect_extension(self) -> None:
        """Create the extension if the database lacks it.

        Raises:
            ConfigError: it cannot be created, or is older than `OLDEST`, or the database is not in UTF-8.
        """
        expected = ConfigError(f"{URI}: expected a database in UTF-8 with the extension vector 0.8 or newer")
        asked = (
            "SELECT extversion, current_setting('server_encoding') FROM pg_extension WHERE extname = 'vector'"
        )
        if not (found := self._rows(asked)):
            try:
                self._rows("CREATE EXTENSION IF NOT EXISTS vector")
            except Unavailable as error:
                raise expected from error
            found = self._rows(asked)
        ((version, encoding),) = found
        if encoding != "UTF8" or tuple(map(int, version.split(".")[:2])) < OLDEST:
            raise expected


ENGINE = PgvectorDatabase


def search_width(parameters: IndexParameters, k: int) -> int:
    """`hnsw.ef_search` of a search for `k` items."""
    return max(parameters.ef_search, 2 * k)


def vector_of(text: str) -> Vectors:
    """A vector from the text that the server has sent, float32 (D,)."""
    return np.array(json.loads(text), np.float32)


def _check_graph(parameters: IndexParameters, dimension: int) -> None:
    m, width = parameters.m, parameters.ef_construction
    if dimension > GRAPH_DIMENSIONS or m > GRAPH_LINKS or not 2 * m <= width <= GRAPH_WIDTH:
        raise DataError(
            f"index: expected at most {GRAPH_DIMENSIONS} dimensions, m of at most {GRAPH_LINKS}, and "
            f"ef_construction from 2 m to {GRAPH_WIDTH} for an HNSW index of pgvector, got {dimension}, {m} "
            f"and {width}"
        )


def _name(found: str, comment: str | None) -> str:
    """The name of the collection in a table; empty if it is not one of ours."""
    name = f"{PREFIX}{comment}"
    return name if name[:NAME_LENGTH] == found else found if draft_seconds(found) is not None else ""
