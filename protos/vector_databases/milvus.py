"""A Milvus server: how it is named, connected and asked, and how the collections of bundles are named.

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

`pymilvus` is imported by the functions that need it, because that takes half a second.
"""

import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar

import numpy as np

from twinspire.protos.bundle import IndexParameters
from twinspire.protos.errors import ConfigError, PackageMissing, Unavailable
from twinspire.protos.filter_kinds import KINDS
from twinspire.protos.vector_databases.database import (
    CONNECT_SECONDS,
    FLAT_TYPE,
    HNSW_TYPE,
    PREFIX,
    WRITE_SECONDS,
    Described,
    ItemRow,
    Limits,
    Vectors,
    index_type,
)

URI, TOKEN, DATABASE = "TWINSPIRE_MILVUS_URI", "TWINSPIRE_MILVUS_TOKEN", "TWINSPIRE_MILVUS_DATABASE"
ID, VECTOR, DISPLAY, PART = "id", "vector", "display", "part"
PARTS = 20
MAX_BYTES = 65_535  # of a string in a collection
MAX_K = 16_384  # items that one search returns at most
QUERIES = 64  # of one search
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


@dataclass(frozen=True)
class MilvusServer:
    """The Milvus server that the environment names; `repr` shows neither address nor credentials."""

    uri: str = field(repr=False)
    token: str = field(default="", repr=False)
    database: str = field(default="", repr=False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "MilvusServer":
        """The server of the environment's variables.

        Raises:
            ConfigError: a variable is missing, or is not what it should be; its value is not shown.
        """
        uri = environment.get(URI, "").strip()
        if not uri:
            raise ConfigError(f"{URI}: required for an index of kind milvus, such as http://127.0.0.1:19530")
        if not (uri.endswith(".db") or _ADDRESS.fullmatch(uri)):
            raise ConfigError(
                f"{URI}: expected http://host:port or https://host:port, or a file that ends in .db; user "
                f"and password belong into {TOKEN}"
            )
        return cls(uri, environment.get(TOKEN, "").strip(), environment.get(DATABASE, "").strip())

    @property
    def is_file(self) -> bool:
        """Whether it is milvus-lite, in this process."""
        return self.uri.endswith(".db")

    def connect(self, seconds: float = CONNECT_SECONDS) -> Any:
        """A client of the server: a `pymilvus.MilvusClient`.

        Args:
            seconds: in which the server has to answer.

        Raises:
            PackageMissing: pymilvus is not installed.
            Unavailable: the server does not answer, or refuses the credentials.
        """
        pymilvus = import_client()
        kept = {name: value for name, value in (("token", self.token), ("db_name", self.database)) if value}
        with server_errors():
            return pymilvus.MilvusClient(self.uri, timeout=seconds, grpc_options=CHANNEL, **kept)


def import_client() -> Any:
    """The package `pymilvus`, which takes half a second; nothing is connected yet.

    Raises:
        PackageMissing: it is not installed.
    """
    try:
        pymilvus = import_module("pymilvus")
    except ModuleNotFoundError as error:
        raise PackageMissing(f"an index of kind milvus needs {error.name}: pip install .[milvus]") from None
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # its errors show the server's address
    return pymilvus


@contextmanager
def server_errors() -> Iterator[None]:
    """Raise errors of pymilvus and of gRPC as `Unavailable`, without their texts, which show the address."""
    import grpc
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except (MilvusException, grpc.RpcError) as error:
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


def search_params(parameters: IndexParameters, k: int) -> dict[str, Any]:
    """What a search for `k` items passes to Milvus."""
    if index_type(parameters) == FLAT_TYPE:
        return {"params": {}}
    return {"params": {"ef": max(parameters.ef_search, 2 * k)}}


def literal(text: str) -> str | None:
    """A string as a part of an expression; None if a collection cannot hold it.

    All servers read the escapes of quotes, backslashes, tabs and line ends alike. So no collection holds
    strings with other control characters.
    """
    return json.dumps(text, ensure_ascii=False) if LIMITS.holds(text) else None


class MilvusDatabase:
    """A client of a Milvus server; implements `VectorDatabase`.

    Args:
        client: a `pymilvus.MilvusClient`.
    """

    title: ClassVar[str] = f"Milvus ({URI})"
    packages: ClassVar[Sequence[str]] = ("pymilvus",)
    limits: ClassVar[Limits] = LIMITS
    widest: ClassVar[int] = 32_768

    def __init__(self, client: Any) -> None:
        self.client = client

    @classmethod
    def connect(cls, seconds: float = CONNECT_SECONDS) -> "MilvusDatabase":
        """As `VectorDatabase.connect`."""
        return cls(MilvusServer.from_environment().connect(seconds))

    def names(self) -> list[str]:
        """As `VectorDatabase.names`."""
        with server_errors():
            found = self.client.list_collections(timeout=CONNECT_SECONDS)
        return [each for each in found if each.startswith(PREFIX)]

    def describe(self, name: str, seconds: float = WRITE_SECONDS) -> Described | None:
        """As `VectorDatabase.describe`."""
        with server_errors():
            if not self.client.has_collection(name, timeout=seconds):
                return None
            said = self.client.describe_collection(name, timeout=seconds)
            self.client.load_collection(name, timeout=seconds)
            strong = {"consistency_level": "Strong", "timeout": seconds}
            count = self.client.query(name, filter="", output_fields=["count(*)"], **strong)[0]["count(*)"]
        return Described(said.get("description", ""), {each["name"] for each in said["fields"]}, count)

    def fields(self, count: int) -> set[str]:
        """As `VectorDatabase.fields`."""
        return {ID, VECTOR, DISPLAY, PART, *(f"{kind}{n}" for n in range(count) for kind in ("f", "has"))}

    def create(
        self,
        name: str,
        vectors: Vectors,
        parameters: IndexParameters,
        kinds: Sequence[str],
        rows: Iterator[ItemRow],
        version: str,
    ) -> None:
        """As `VectorDatabase.create`."""
        from pymilvus import DataType

        text = {"datatype": DataType.VARCHAR, "max_length": MAX_BYTES}
        schema = self.client.create_schema(auto_id=False, enable_dynamic_field=False, description=version)
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
        items = (
            _held(n, row, kinds) | {VECTOR: np.asarray(vector)}
            for n, (row, vector) in enumerate(zip(rows, vectors, strict=True))
        )
        kind = FLAT_TYPE if len(vectors) < SMALLEST_GRAPH else index_type(parameters)
        shape = {"M": parameters.m, "efConstruction": parameters.ef_construction} if kind == HNSW_TYPE else {}
        seconds = {"timeout": WRITE_SECONDS}
        with server_errors():
            self.client.create_collection(name, schema=schema, consistency_level="Strong", **seconds)
            for part in _inserts(items):
                self.client.insert(name, part, **seconds)
            self.client.flush(name, **seconds)
            index = self.client.prepare_index_params()
            index.add_index(VECTOR, index_type=kind, metric_type="IP", params=shape)
            self.client.create_index(name, index, **seconds)
            self.client.load_collection(name, **seconds)

    def read(
        self, name: str, item_ids: Sequence[str], kinds: Sequence[str]
    ) -> dict[str, tuple[ItemRow, Vectors]]:
        """As `VectorDatabase.read`."""
        wanted = ", ".join(text for each in item_ids if (text := literal(each)) is not None)
        with server_errors():
            found = self.client.query(
                name,
                filter=f"{ID} in [{wanted}]",
                output_fields=[*self.fields(len(kinds))],
                consistency_level="Strong",
                timeout=WRITE_SECONDS,
            )
        return {
            each[ID]: (
                ItemRow(
                    each[ID],
                    each[DISPLAY],
                    tuple(_given(each[f"f{n}"]) if each[f"has{n}"] else None for n in range(len(kinds))),
                ),
                np.asarray(each[VECTOR], np.float32),
            )
            for each in found
        }

    def rename(self, name: str, new: str) -> None:
        """As `VectorDatabase.rename`."""
        with server_errors():
            self.client.rename_collection(name, new, timeout=WRITE_SECONDS)

    def drop(self, name: str, seconds: float = WRITE_SECONDS) -> None:
        """As `VectorDatabase.drop`."""
        with server_errors():
            self.client.drop_collection(name, timeout=seconds)

    def nearest(self, name: str, queries: Vectors, k: int, parameters: IndexParameters) -> list[list[str]]:
        """As `VectorDatabase.nearest`."""
        found: list[list[str]] = []
        with server_errors():
            for start in range(0, len(queries), QUERIES):
                answers = self.client.search(
                    name,
                    data=[*np.asarray(queries[start : start + QUERIES], np.float32)],
                    limit=k,
                    output_fields=[ID],
                    search_params=search_params(parameters, k),
                    timeout=WRITE_SECONDS,
                    consistency_level="Bounded",  # `create` has flushed and loaded what it wrote
                )
                found += [[each[ID] for each in hits] for hits in answers]
        return found

    def close(self) -> None:
        """As `VectorDatabase.close`."""
        self.client.close()


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
