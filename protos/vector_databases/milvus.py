"""A Milvus server, as a `VectorDatabase`.

    TWINSPIRE_MILVUS_URI        http://host:19530, or https://...; a file that ends in .db for milvus-lite
    TWINSPIRE_MILVUS_TOKEN      user:password, or a key; may be absent
    TWINSPIRE_MILVUS_DATABASE   may be absent

The collection of a bundle, named by the bundle's version, has these fields:

    id        the item's id
    vector    float32 (D,): the item's vector
    display   the item's display fields as JSON: {"<field>": "<text>"}, without those that it lacks
    f<n>      the value of filter field n, counted from 0 in ascending order of the names
    has<n>    whether the item has a value of it: a filter must tell "absent" from every value
    part      int8: one of `PARTS`, each with an equal share of the items. The graph of a server may find too
              few items that pass a filter, whatever ef. Servers compare all that pass where they are fewer
              than 7 %, so searches of each part together are exact

A collection never changes after it is written. So reads pass a timestamp that the server gave after that:
they are strongly consistent, without the wait for the server's next clock tick (200 ms) that the level
"Strong" takes. gRPC repeats a read that finds no server, a few times within the read's own time.
"""

import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, ClassVar

import grpc
import numpy as np
from pymilvus import DataType, MilvusClient
from pymilvus.exceptions import MilvusException

from twinspire.protos.bundle import IndexParameters
from twinspire.protos.errors import ConfigError, InvalidInput, Unavailable
from twinspire.protos.filter_kinds import KINDS
from twinspire.protos.vector_databases.database import (
    CONNECT_SECONDS,
    FLAT_TYPE,
    HNSW_TYPE,
    PREFIX,
    WRITE_SECONDS,
    Described,
    Hit,
    Syntax,
    countdown,
    index_type,
)
from twinspire.protos.vector_databases.items import CollectionItems, ItemRow, Limits, Vectors

URI, TOKEN, DATABASE = "TWINSPIRE_MILVUS_URI", "TWINSPIRE_MILVUS_TOKEN", "TWINSPIRE_MILVUS_DATABASE"
ID, VECTOR, DISPLAY, PART = "id", "vector", "display", "part"
PARTS = 20
MAX_BYTES = 65_535  # of a string in a collection
QUERIES = 64  # of one search
IDS = 1000  # items that are read by their ids at once
# In errors that refuse a condition.
_REFUSED = ("cannot parse expression", "failed to create query plan")
# Of one insert. A server takes 64 MiB, and the last item of an insert may add 1 MiB for each filter field.
INSERT_ROWS, INSERT_BYTES = 2000, 8 << 20
# Of fewer items all are compared: Milvus builds no graph for less than 1,024, and 2.3.5 then misses some.
SMALLEST_GRAPH = 4096
# A collection has at most 64 fields. All servers read the escapes of tabs and line ends alike.
LIMITS = Limits(
    "Milvus",
    30,
    MAX_BYTES,
    MAX_BYTES,
    4096,
    1 << 20,
    re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]"),
    "control characters",
)
# Stored type of a field's values, None for strings -> type in Milvus, and value where it is absent.
_STORED: dict[Any, tuple[str, Any]] = {
    np.float64: ("DOUBLE", 0.0),
    np.int8: ("BOOL", False),
    np.int64: ("INT64", 0),
    None: ("VARCHAR", ""),
}
_STRONG: Mapping[str, Any] = {"consistency_level": "Strong"}
# gRPC's own retries, within the time of a call. A server that has come back is found within a second.
CHANNEL: dict[str, Any] = {
    "grpc.enable_retries": 1,
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 1000,
    "grpc.service_config": (
        '{"methodConfig": [{"name": [{"service": "milvus.proto.milvus.MilvusService"}], "retryPolicy": '
        '{"maxAttempts": 4, "initialBackoff": "0.05s", "maxBackoff": "0.5s", "backoffMultiplier": 2, '
        '"retryableStatusCodes": ["UNAVAILABLE"]}}]}'
    ),
}
_ADDRESS = re.compile(r"(https?|tcp)://(\[[0-9a-fA-F:]+\]|[^\s/@:?#]+)(:[0-9]{1,5})?/?")
logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # its errors show the server's address


@contextmanager
def server_errors() -> Iterator[None]:
    """Raise errors of pymilvus and of gRPC as `Unavailable`, without their texts, which show the address.

    Raises:
        InvalidInput: the server does not take a condition.
    """
    try:
        yield
    except (MilvusException, grpc.RpcError) as error:
        if any(each in str(error) for each in _REFUSED):
            raise InvalidInput("filter", "the Milvus server does not take it as an expression") from None
        raise Unavailable(f"Milvus ({URI}) {reason_of(error)}") from None


def reason_of(error: Exception) -> str:
    """What is wrong with the server, by the code of an error of pymilvus or gRPC: texts show addresses."""
    for each in (error, error.__cause__):
        code: Any = getattr(each, "code", None)
        code = code() if callable(code) else code
        if name := getattr(code, "name", None):
            return f"does not answer: {name}"
    code = getattr(error, "code", None)
    return f"does not answer: error {code}" if isinstance(code, int) else "does not answer"


def literal(text: str) -> str | None:
    """A string as a part of an expression; None if a collection cannot hold it.

    All servers read the escapes of quotes, backslashes, tabs and line ends alike. So no collection holds
    strings with other control characters.
    """
    return json.dumps(text, ensure_ascii=False) if LIMITS.holds(text) else None


def _any_of(n: int, kind: str, literals: Sequence[str]) -> str:
    if KINDS[kind].is_list:
        return "(" + " or ".join(f"array_contains(f{n}, {text})" for text in literals) + ")"
    if KINDS[kind].dtype is np.int8:  # servers differ in whether a list may hold booleans
        return "(" + " or ".join(f"f{n} == {text}" for text in literals) + ")"
    return f"f{n} in [{', '.join(literals)}]"


class MilvusDatabase:
    """A Milvus server, or the file of milvus-lite, and a client of it."""

    title: ClassVar[str] = f"Milvus ({URI})"
    packages: ClassVar[Sequence[str]] = ("pymilvus",)
    limits: ClassVar[Limits] = LIMITS
    syntax: ClassVar[Syntax] = Syntax(
        never=f'{ID} < ""',
        present=lambda n: f"has{n} == true",
        absent=lambda n: f"has{n} == false",
        literal=literal,
        any_of=_any_of,
    )
    max_ef: ClassVar[int] = 32_768
    max_k: ClassVar[int] = 16_384

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._uri, token, database = (environment.get(each, "").strip() for each in (URI, TOKEN, DATABASE))
        if not self._uri:
            raise ConfigError(f"{URI}: required for an index of kind milvus, such as http://127.0.0.1:19530")
        if not (self._uri.endswith(".db") or _ADDRESS.fullmatch(self._uri)):
            raise ConfigError(
                f"{URI}: expected http://host:port or https://host:port, or a file that ends in .db; user "
                f"and password belong into {TOKEN}"
            )
        given = {"token": token, "db_name": database}
        self._options = {name: value for name, value in given.items() if value}
        self._client: Any = None
        self._consistency = _STRONG

    def client(self, seconds: float = CONNECT_SECONDS) -> Any:
        """The `pymilvus.MilvusClient`; the first call connects it.

        Raises:
            Unavailable: the server does not answer within `seconds`, or refuses the credentials.
        """
        if self._client is None:
            wait = min(seconds, CONNECT_SECONDS)
            with server_errors():
                self._client = MilvusClient(self._uri, timeout=wait, grpc_options=CHANNEL, **self._options)
        return self._client

    def names(self) -> list[str]:
        """As `VectorDatabase.names`."""
        with server_errors():
            found = self.client().list_collections(timeout=CONNECT_SECONDS)
        return [each for each in found if each.startswith(PREFIX)]

    def describe(self, name: str, seconds: float = WRITE_SECONDS) -> Described | None:
        """As `VectorDatabase.describe`."""
        left = countdown(seconds)
        client = self.client(seconds)
        with server_errors():
            if not client.has_collection(name, timeout=left()):
                return None
            said = client.describe_collection(name, timeout=left())
            client.load_collection(name, timeout=left())
        self._pin_read_timestamp(left())
        return Described(said.get("description", ""), {each["name"] for each in said["fields"]})

    def fields(self, count: int) -> set[str]:
        """As `VectorDatabase.fields`."""
        return {ID, VECTOR, DISPLAY, PART, *(f"{kind}{n}" for n in range(count) for kind in ("f", "has"))}

    def create(self, name: str, items: CollectionItems, parameters: IndexParameters, version: str) -> None:
        """As `VectorDatabase.create`."""
        client, vectors, kinds = self.client(), items.vectors, items.kinds
        text = {"datatype": DataType.VARCHAR, "max_length": MAX_BYTES}
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False, description=version)
        schema.add_field(ID, is_primary=True, **text)
        schema.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=vectors.shape[1])
        schema.add_field(DISPLAY, **text)
        schema.add_field(PART, DataType.INT8)
        for n, kind in enumerate(kinds):
            schema.add_field(f"has{n}", DataType.BOOL)
            held = getattr(DataType, _STORED[KINDS[kind].dtype][0])
            long = {"max_length": MAX_BYTES} if held == DataType.VARCHAR else {}
            if KINDS[kind].is_list:
                long |= {"element_type": held, "max_capacity": LIMITS.strings}
                held = DataType.ARRAY
            schema.add_field(f"f{n}", held, **long)
        rows = (
            _held(n, row, kinds) | {VECTOR: np.asarray(vector)}
            for n, (row, vector) in enumerate(zip(items.rows(), vectors, strict=True))
        )
        kind = FLAT_TYPE if len(vectors) < SMALLEST_GRAPH else index_type(parameters)
        shape = {"M": parameters.m, "efConstruction": parameters.ef_construction} if kind == HNSW_TYPE else {}
        seconds = {"timeout": WRITE_SECONDS}
        with server_errors():
            client.create_collection(name, schema=schema, consistency_level="Strong", **seconds)
            for part in _inserts(rows):
                client.insert(name, part, **seconds)
            client.flush(name, **seconds)
            index = client.prepare_index_params()
            index.add_index(VECTOR, index_type=kind, metric_type="IP", params=shape)
            client.create_index(name, index, **seconds)
            client.load_collection(name, **seconds)
        self._pin_read_timestamp(WRITE_SECONDS)

    def read(
        self, name: str, item_ids: Sequence[str], kinds: Sequence[str] = (), seconds: float = WRITE_SECONDS
    ) -> dict[str, tuple[ItemRow, Vectors]]:
        """As `VectorDatabase.read`."""
        left = countdown(seconds)
        texts = [text for each in item_ids if (text := literal(each)) is not None]
        fields = [ID, DISPLAY, VECTOR, *(f"{part}{n}" for n in range(len(kinds)) for part in ("f", "has"))]
        return {
            each[ID]: (
                ItemRow(
                    each[ID],
                    each[DISPLAY],
                    tuple(_given(each[f"f{n}"]) if each[f"has{n}"] else None for n in range(len(kinds))),
                ),
                np.asarray(each[VECTOR], np.float32),
            )
            for start in range(0, len(texts), IDS)
            for each in self._query(
                name,
                f"{ID} in [{', '.join(texts[start : start + IDS])}]",
                fields,
                left(),
            )
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
        """As `VectorDatabase.search`; an exact one is a search of each part of the collection."""
        client, among = self.client(seconds), [condition]
        if is_exact:
            passing = f"({condition}) and " if condition else ""
            among = [f"{passing}{PART} == {part}" for part in range(PARTS)]
        with server_errors():
            # Without pymilvus's own repetitions, which may take twice the time that they are given.
            asked = [
                client.search(
                    name,
                    data=[*np.asarray(vectors[start : start + QUERIES], np.float32)],
                    filter=each,
                    limit=k,
                    output_fields=[ID, DISPLAY],
                    search_params={"params": {"ef": ef}},  # FLAT reads none
                    timeout=seconds,
                    _async=True,
                    **self._consistency,
                )
                for each in among
                for start in range(0, len(vectors), QUERIES)
            ]
            answers = iter([future.result() for future in asked])
        found: list[list[Any]] = [[] for _ in vectors]
        for _ in among:
            for start in range(0, len(vectors), QUERIES):
                for hits, more in zip(found[start:], next(answers), strict=False):
                    hits += more
        for hits in found:
            hits.sort(key=lambda each: -each["distance"])
        return [
            [(each["entity"][ID], each["entity"][DISPLAY], each["distance"]) for each in hits[:k]]
            for hits in found
        ]

    def count(self, name: str, condition: str = "", seconds: float = WRITE_SECONDS) -> int:
        """As `VectorDatabase.count`."""
        return int(self._query(name, condition, ["count(*)"], seconds)[0]["count(*)"])

    def rename(self, name: str, new: str) -> None:
        """As `VectorDatabase.rename`."""
        with server_errors():
            self.client().rename_collection(name, new, timeout=WRITE_SECONDS)

    def drop(self, name: str, seconds: float = WRITE_SECONDS) -> None:
        """As `VectorDatabase.drop`."""
        with server_errors():
            self.client(seconds).drop_collection(name, timeout=seconds)

    def close(self) -> None:
        """As `VectorDatabase.close`."""
        if self._client is not None:
            self._client.close()

    def _query(self, name: str, condition: str, fields: list[str], seconds: float) -> Any:
        with server_errors():
            return self.client(seconds).query(
                name, filter=condition, output_fields=fields, timeout=seconds, **self._consistency
            )

    def _pin_read_timestamp(self, seconds: float) -> None:
        """Let reads see all that is written now: from a timestamp of the server on, or by "Strong"."""
        self._consistency, now = _STRONG, 0
        with suppress(Exception):  # a server without timestamps, or another version of pymilvus
            if not self._uri.endswith(".db"):
                now = self.client()._get_connection().alloc_timestamp(timeout=seconds)
        if now:
            self._consistency = {"consistency_level": "Customized", "guarantee_timestamp": now}


ENGINE = MilvusDatabase


def _held(n: int, row: ItemRow, kinds: Sequence[str]) -> dict[str, Any]:
    """The fields of item `n` without its vector, as a collection holds them."""
    held: dict[str, Any] = {ID: row.item_id, DISPLAY: row.display, PART: n % PARTS}
    for place, (kind, value) in enumerate(zip(kinds, row.values, strict=True)):
        empty = [] if KINDS[kind].is_list else _STORED[KINDS[kind].dtype][1]
        held[f"has{place}"] = value is not None
        held[f"f{place}"] = empty if value is None else value
    return held


def _given(value: Any) -> Any:
    """A value as `ItemRow` has it: pymilvus returns lists of its own kind."""
    return list(value) if not isinstance(value, str | float | int) else value


def _inserts(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Rows in parts of at most `INSERT_ROWS`, each of less than `INSERT_BYTES` before its last row."""
    part: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        part.append(row)
        size += sum(map(_size, row.values()))
        if len(part) == INSERT_ROWS or size >= INSERT_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def _size(value: Any) -> int:
    """Bytes of a value in a message, about."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, str):
        return len(value.encode()) + 8  # its key and its length
    return sum(map(_size, value)) if isinstance(value, list) else 8
