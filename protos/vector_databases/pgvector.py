"""PostgreSQL with the extension pgvector, 0.8 or newer, as a `VectorDatabase`; `postgres.py` connects.

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
import os
import re
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, ClassVar

import numpy as np
import psycopg
from psycopg import sql

from twinspire.protos.bundle import IndexParameters
from twinspire.protos.errors import ConfigError, DataError
from twinspire.protos.filter_kinds import KINDS
from twinspire.protos.vector_databases.database import (
    CONNECT_SECONDS,
    FLAT_TYPE,
    PREFIX,
    WRITE_SECONDS,
    Described,
    Hit,
    Syntax,
    draft_seconds,
    index_type,
)
from twinspire.protos.vector_databases.items import CollectionItems, ItemRow, Limits, Vectors
from twinspire.protos.vector_databases.postgres import TITLE, URI, Connection, Connections, server_errors

OLDEST = (0, 8)  # version of pgvector, whose searches go on until enough items pass a filter
NAME_LENGTH = 58  # of a table; PostgreSQL allows 63
# A B-tree and a GIN index hold at most a third of a page of 8 KiB.
LIMITS = Limits("pgvector", 500, 2600, 1 << 26, 1 << 16, 1 << 26, re.compile("\x00"), "NUL characters")
MAX_EF = 1000  # `hnsw.ef_search`
GRAPH_DIMENSIONS, GRAPH_LINKS, MAX_EF_CONSTRUCTION = 2000, 100, 1000  # at most, of an HNSW index
BUILD_BYTES = 4 << 30  # of the server's memory that the build of a graph may take
_TYPES: Mapping[Any, str] = {
    np.float64: "float8",
    np.int8: "boolean",
    np.int64: "bigint",
    None: 'text COLLATE "C"',
}


def table(collection: str) -> sql.Identifier:
    """The table of a collection."""
    return sql.Identifier(collection[:NAME_LENGTH])


def _literal(text: str) -> str | None:
    return sql.Literal(text).as_string(None) if LIMITS.holds(text) else None


def _any_of(n: int, kind: str, literals: Sequence[str]) -> str:
    is_text = KINDS[kind].dtype is None
    values = f"array[{', '.join(literals)}]{'::text[]' if is_text else ''}"
    return f"f{n} && {values}" if KINDS[kind].is_list else f"f{n} = any({values})"


class PgvectorDatabase:
    """A server of PostgreSQL."""

    title: ClassVar[str] = TITLE
    packages: ClassVar[Sequence[str]] = ("psycopg", "psycopg-binary")
    limits: ClassVar[Limits] = LIMITS
    syntax: ClassVar[Syntax] = Syntax(
        never="false",
        present=lambda n: f"f{n} is not null",
        absent=lambda n: f"f{n} is null",
        literal=_literal,
        any_of=_any_of,
    )
    max_ef: ClassVar[int] = MAX_EF
    max_k: ClassVar[int] = 16_384

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._server = Connections(environment)

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
        return Described(rows[0][1] or "", {row[0] for row in rows}) if rows else None

    def fields(self, count: int) -> set[str]:
        """As `VectorDatabase.fields`."""
        return {"id", "vector", "display", *(f"f{n}" for n in range(count))}

    def create(self, name: str, items: CollectionItems, parameters: IndexParameters, version: str) -> None:
        """As `VectorDatabase.create`, in one transaction; raises ConfigError for a database that cannot."""
        count, dimension = items.vectors.shape
        graph = index_type(parameters) != FLAT_TYPE
        if graph:
            _check_graph(parameters, dimension)
        columns = ['id text COLLATE "C"', f"vector vector({dimension})", "display text"]
        indexes = ["ALTER TABLE {} ADD PRIMARY KEY (id)"]
        for n, kind in enumerate(items.kinds):
            is_list, held = KINDS[kind].is_list, _TYPES[KINDS[kind].dtype]
            columns.append(f"f{n} {held.replace(' ', '[] ', 1) if is_list else held}")
            if held != "boolean":
                indexes.append(f"CREATE INDEX ON {{}} USING {'gin' if is_list else 'btree'} (f{n})")
        if graph:
            options = f"m = {parameters.m:d}, ef_construction = {parameters.ef_construction:d}"
            indexes.append(f"CREATE INDEX ON {{}} USING hnsw (vector vector_ip_ops) WITH ({options})")
        with server_errors(), self._server.connect(CONNECT_SECONDS) as connection:
            _expect_extension(connection)
            with connection.transaction():

                def execute(statement: str) -> None:
                    connection.execute(sql.SQL(statement).format(table(name)))

                # A role may limit statements. Without memory for the whole graph the build takes many times
                # as long.
                needed = min(count * (4 * dimension + 40 * parameters.m + 300), BUILD_BYTES)
                connection.execute(
                    "SELECT set_config('statement_timeout', '0', true), "
                    "set_config('maintenance_work_mem', greatest(%s, "
                    "pg_size_bytes(current_setting('maintenance_work_mem')) / 1024)::text, true)",
                    [needed // 1024],
                )
                execute(f"CREATE TABLE {{}} ({', '.join(columns)})")
                # Rows that are frozen are counted by an index alone.
                text = sql.SQL("COPY {} FROM STDIN WITH (FREEZE)").format(table(name))
                with connection.cursor().copy(text) as copy:
                    for row, vector in zip(items.rows(), items.vectors, strict=True):
                        copy.write_row((row.item_id, json.dumps(vector.tolist()), row.display, *row.values))
                for each in indexes:
                    execute(each)
                connection.execute(
                    sql.SQL("COMMENT ON TABLE {} IS {}").format(table(name), sql.Literal(version))
                )
                execute("ANALYZE {}")

    def read(
        self, name: str, item_ids: Sequence[str], kinds: Sequence[str] = (), seconds: float = WRITE_SECONDS
    ) -> dict[str, tuple[ItemRow, Vectors]]:
        """As `VectorDatabase.read`."""
        text = "".join(f", f{n}" for n in range(len(kinds)))
        rows = self._rows(
            sql.SQL(f"SELECT id, display, vector::text{text} FROM {{}} WHERE id = ANY(%s)").format(
                table(name)
            ),
            [[each for each in item_ids if LIMITS.holds(each)]],
            seconds,
        )
        return {
            item_id: (ItemRow(item_id, display, tuple(values)), np.array(json.loads(vector), np.float32))
            for item_id, display, vector, *values in rows
        }

    def search(
        self,
        name: str,
        vectors: Vectors,
        k: int,
        ef: int,
        condition: str = "",
        is_exact: bool = False,
        seconds: float = WRITE_SECONDS,
    ) -> list[list[Hit]]:
        """As `VectorDatabase.search`."""
        text = sql.SQL(
            "SELECT id, display, vector <#> %(vector)s::vector FROM {} WHERE {} "
            "ORDER BY vector <#> %(vector)s::vector LIMIT %(k)s"
        ).format(table(name), _where(condition))
        statements = [(text, {"vector": json.dumps(each.tolist()), "k": k}) for each in vectors]
        settings = {
            "hnsw.ef_search": min(ef, MAX_EF),
            "hnsw.iterative_scan": "relaxed_order",
            "enable_indexscan": "off" if is_exact else "on",
        }
        found = self._server.run(statements, seconds, settings)
        return [
            [(item_id, display, -distance) for item_id, display, distance in sorted(hits, key=itemgetter(2))]
            for hits in found
        ]

    def count(self, name: str, condition: str = "", seconds: float = WRITE_SECONDS) -> int:
        """As `VectorDatabase.count`."""
        text = sql.SQL("SELECT count(*) FROM {} WHERE {}").format(table(name), _where(condition))
        ((count,),) = self._rows(text, {}, seconds)
        return int(count)

    def rename(self, name: str, new: str) -> None:
        """As `VectorDatabase.rename`."""
        text = sql.SQL("ALTER TABLE {} RENAME TO {}").format(table(name), table(new))
        self._server.run([(text, ())], WRITE_SECONDS, is_repeatable=False)

    def drop(self, name: str, seconds: float = WRITE_SECONDS) -> None:
        """As `VectorDatabase.drop`."""
        self._rows(sql.SQL("DROP TABLE IF EXISTS {}").format(table(name)), (), seconds)

    def close(self) -> None:
        """As `VectorDatabase.close`."""
        self._server.close()

    def _rows(
        self,
        statement: str | sql.SQL | sql.Composed,
        values: Sequence[Any] | Mapping[str, Any] = (),
        seconds: float = WRITE_SECONDS,
    ) -> list[tuple[Any, ...]]:
        """The rows of one statement."""
        text = sql.SQL(statement) if isinstance(statement, str) else statement
        return self._server.run([(text, values)], seconds)[0]


ENGINE = PgvectorDatabase


def _where(condition: str) -> sql.Composable:
    """A condition in a statement that has parameters."""
    return sql.SQL(condition.replace("%", "%%") or "true")


def _expect_extension(connection: Connection) -> None:
    """Create the extension if the database lacks it.

    Raises:
        ConfigError: it cannot be created, or is older than `OLDEST`, or the database is not in UTF-8.
    """
    expected = ConfigError(f"{URI}: expected a database in UTF-8 with the extension vector 0.8 or newer")
    try:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    except psycopg.Error:
        if connection.closed:
            raise
        raise expected from None
    ((version, encoding),) = connection.execute(
        "SELECT extversion, current_setting('server_encoding') FROM pg_extension WHERE extname = 'vector'"
    )
    if encoding != "UTF8" or tuple(map(int, version.split(".")[:2])) < OLDEST:
        raise expected


def _check_graph(parameters: IndexParameters, dimension: int) -> None:
    m, width = parameters.m, parameters.ef_construction
    if dimension > GRAPH_DIMENSIONS or m > GRAPH_LINKS or not 2 * m <= width <= MAX_EF_CONSTRUCTION:
        raise DataError(
            f"index: expected at most {GRAPH_DIMENSIONS} dimensions, m of at most {GRAPH_LINKS}, and "
            f"ef_construction from 2 m to {MAX_EF_CONSTRUCTION} for an HNSW index of pgvector, got "
            f"{dimension}, {m} and {width}"
        )


def _name(found: str, comment: str | None) -> str:
    """The name of the collection in a table; empty if it is not one of ours."""
    name = f"{PREFIX}{comment}"
    return name if name[:NAME_LENGTH] == found else found if draft_seconds(found) is not None else ""
