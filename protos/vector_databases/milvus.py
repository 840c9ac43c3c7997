"""The collection of a bundle on a Milvus server: its name, its fields, how it is written and checked.

    TWINSPIRE_MILVUS_URI        http://host:19530, or https://...; a file that ends in .db for milvus-lite
    TWINSPIRE_MILVUS_TOKEN      user:password, or a key; may be absent
    TWINSPIRE_MILVUS_DATABASE   may be absent

    id        int64: the row of the item
    vector    float32 (D,): the item's vector, with 0 in a coordinate that only pads it to unit length
    item_id   the item's id
    f<n>      the value of filter field n, counted from 0 in ascending order of the names
    has<n>    whether the item has a value of it: a filter must tell "absent" from every value

The collection of a bundle is named by the bundle's version. It is written under another name, loaded, checked
and then renamed, so a collection that has its final name is whole. The server's address and the credentials
come from the environment alone: no bundle, log or error holds them.

`pymilvus` is imported by the functions that need it, because that takes half a second.
"""

import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twinspire.protos import names
from twinspire.protos.bundle import ITEMS, MANIFEST, IndexParameters, Manifest
from twinspire.protos.documents import parse_json
from twinspire.protos.errors import BundleDamaged, ConfigError, DataError, PackageMissing, Unavailable
from twinspire.protos.filter_kinds import KINDS
from twinspire.protos.filters import StringColumn, column_values, read_filters
from twinspire.protos.nearest.vectors import vectors_of

URI, TOKEN, DATABASE = "TWINSPIRE_MILVUS_URI", "TWINSPIRE_MILVUS_TOKEN", "TWINSPIRE_MILVUS_DATABASE"
PREFIX = "twinspire_"
DRAFT_DIGITS = 32  # of a bundle's version, in the name of a draft
ID, VECTOR, ITEM_ID = "id", "vector", "item_id"
MAX_BYTES = 65_535  # of a string in a collection
MAX_STRINGS = 4096  # of one item in a field
MAX_STRINGS_BYTES = 1 << 20  # of all strings of one item in a field
MAX_FIELDS = 30  # filter fields that a collection holds; a collection has at most 64 fields
HNSW_TYPE, FLAT_TYPE = "HNSW", "FLAT"
INDEX_TYPES = (HNSW_TYPE, FLAT_TYPE)  # `index.options.type` of a manifest; FLAT compares all items
MAX_K = 16_384  # items that one search returns at most
# Of one insert. A server takes 64 MiB, and the last item of an insert may add MAX_FIELDS times 1 MiB.
INSERT_ROWS, INSERT_BYTES = 2000, 8 << 20
SAMPLE = 16  # items whose vectors and ids are compared
CONNECT_SECONDS, WRITE_SECONDS = 5.0, 600.0
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
_COLLECTION = re.compile(rf"{PREFIX}([0-9a-f]{{64}})")
_DRAFT = re.compile(rf"{PREFIX}draft_([0-9a-f]{{{DRAFT_DIGITS}}}|index)_([0-9a-f]{{8}})[0-9a-f]{{8}}")
Vectors = npt.NDArray[np.float32]


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
    pymilvus = _imported("pymilvus")
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # its errors show the server's address
    return pymilvus


def import_breaker() -> Any:
    """The class `CircuitBreaker` of the package `circuitbreaker`.

    Raises:
        PackageMissing: it is not installed.
    """
    return _imported("circuitbreaker").CircuitBreaker


def _imported(package: str) -> Any:
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        raise PackageMissing(f"an index of kind milvus needs {error.name}: pip install .[milvus]") from None


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


def collection_name(version: str) -> str:
    """The collection of a bundle, by the bundle's version."""
    return f"{PREFIX}{names.bundle_version(version)}"


def bundle_of(collection: str) -> str | None:
    """The version of a collection's bundle; None if the collection is not one of a bundle."""
    found = _COLLECTION.fullmatch(collection)
    return found[1] if found else None


def draft_seconds(collection: str) -> int | None:
    """When the writing of a collection began, in Unix seconds; None if it is not a draft."""
    found = _DRAFT.fullmatch(collection)
    return int(found[2], 16) if found else None


def draft_name(of: str) -> str:
    """A new name for a collection that is being written; `of` is a bundle's version, or `index`."""
    return f"{PREFIX}draft_{of[:DRAFT_DIGITS]}_{int(time.time()):08x}{secrets.token_hex(4)}"


def index_type(parameters: IndexParameters) -> str:
    """The type of the index in Milvus: one of `INDEX_TYPES`.

    Raises:
        BundleDamaged: the manifest names another one.
    """
    found = parameters.options.get("type", HNSW_TYPE)
    if found not in INDEX_TYPES:
        raise BundleDamaged(
            f"{MANIFEST}: index.options.type: expected one of {', '.join(INDEX_TYPES)}, got {found!r}"
        )
    return str(found)


def search_params(parameters: IndexParameters, k: int) -> dict[str, Any]:
    """What a search for `k` items passes to Milvus."""
    is_graph = index_type(parameters) == HNSW_TYPE
    return {"params": {"ef": max(parameters.ef_search, 2 * k)} if is_graph else {}}


def searched_vectors(vectors: Vectors, has_padding_dim: bool) -> Vectors:
    """Vectors (N, D) as a collection holds them: 0 in the coordinate that only pads, as queries have it."""
    if not has_padding_dim:
        return vectors
    found = np.array(vectors, np.float32)
    found[:, -1] = 0
    return found


@dataclass(frozen=True)
class CollectionFields:
    """The filter fields that a collection holds, with the value of each item, None where it is absent."""

    kinds: Mapping[str, str]
    values: Mapping[str, Sequence[Any]]

    @classmethod
    def of(cls, folder: Path, manifest: Manifest) -> "CollectionFields":
        """Those of a bundle that fit into a collection; the service evaluates filters on the others."""
        kinds: dict[str, str] = {}
        values: dict[str, Sequence[Any]] = {}
        for n, (name, column) in enumerate(sorted(read_filters(folder, manifest).items())):
            found = column_values(column, manifest.count)
            if len(kinds) < MAX_FIELDS and (not isinstance(column, StringColumn) or _fits(found)):
                kinds[f"{n}"], values[f"{n}"] = manifest.filters[name], found
        return cls(kinds, values)

    def rows(self, first: int, last: int) -> list[dict[str, Any]]:
        """The fields of the items from `first` to before `last`."""
        rows: list[dict[str, Any]] = [{} for _ in range(first, last)]
        for n, kind in self.kinds.items():
            _, empty, cast = ("ARRAY", [], list) if KINDS[kind].is_list else _STORED[KINDS[kind].dtype]
            for row, value in zip(rows, self.values[n][first:last], strict=True):
                row[f"has{n}"] = value is not None
                row[f"f{n}"] = empty if value is None else cast(value)
        return rows


# Stored type of a field's values, None for strings -> type in Milvus, value where it is absent, and cast.
_STORED: dict[Any, tuple[str, Any, Callable[[Any], Any]]] = {
    np.float64: ("DOUBLE", 0.0, float),
    np.int8: ("BOOL", False, bool),
    np.int64: ("INT64", 0, int),
    None: ("VARCHAR", "", "".join),  # `column_values` gives every string in a tuple
}


def _fits(values: Sequence[Any]) -> bool:
    lists = ([value] if isinstance(value, str) else value or () for value in values)
    return all(
        len(each) <= MAX_STRINGS
        and sum(len(text.encode()) for text in each) <= MAX_STRINGS_BYTES
        and all(len(text.encode()) <= MAX_BYTES for text in each)
        for each in lists
    )


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


def write_collection(client: Any, folder: Path, manifest: Manifest) -> str:
    """Write the collection of a bundle, whole or not at all; returns its name. One that is there is checked.

    Args:
        manifest: sealed.

    Raises:
        BundleDamaged: the server returns other items than were written.
        DataError: an item's id is too long for a collection.
        Unavailable: the server does not answer.
    """
    name = collection_name(manifest.bundle_version)
    with server_errors():
        for each in client.list_collections(timeout=CONNECT_SECONDS):
            if each.startswith(f"{PREFIX}draft_{manifest.bundle_version[:DRAFT_DIGITS]}_"):
                client.drop_collection(each, timeout=WRITE_SECONDS)  # of an export that was killed
        is_written = client.has_collection(name, timeout=CONNECT_SECONDS)
    if not is_written:
        ids = parse_json((folder / ITEMS).read_bytes())["ids"]
        for row, item_id in enumerate(ids):
            if len(item_id.encode()) > MAX_BYTES:
                raise DataError(f"items, row {row}: expected an id of at most {MAX_BYTES} bytes for Milvus")
        vectors = vectors_of(folder, manifest)
        with draft(client, manifest.bundle_version) as made:
            with server_errors():
                padded, fields = manifest.score.has_padding_dim, CollectionFields.of(folder, manifest)
                version = manifest.bundle_version
                fill(client, made, vectors, manifest.index, padded, version, ids, fields)
            check_collection(client, made, folder, manifest)
            with server_errors():
                client.rename_collection(made, name, timeout=WRITE_SECONDS)
    check_collection(client, name, folder, manifest)
    return name


@contextmanager
def draft(client: Any, of: str) -> Iterator[str]:
    """A new name, whose collection is dropped if the block fails."""
    name = draft_name(of)
    try:
        yield name
    except BaseException:
        with suppress(Exception):  # the first error is the one to tell; the next export drops it
            client.drop_collection(name, timeout=CONNECT_SECONDS)
        raise


def fill(
    client: Any,
    name: str,
    vectors: Vectors,
    parameters: IndexParameters,
    has_padding_dim: bool,
    description: str = "",
    ids: Sequence[str] = (),
    fields: CollectionFields | None = None,
) -> None:
    """Create a collection, insert N items, index and load it.

    Args:
        vectors: float32 (N, D), as the bundle holds them.
        has_padding_dim: whether the last coordinate only pads.
        description: of the collection: the version of its bundle.
        ids: of the items; without them the collection holds vectors alone.
        fields: to filter by.
    """
    from pymilvus import DataType

    fields = fields or CollectionFields({}, {})
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False, description=description)
    schema.add_field(ID, DataType.INT64, is_primary=True)
    schema.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=vectors.shape[1])
    if ids:
        schema.add_field(ITEM_ID, DataType.VARCHAR, max_length=MAX_BYTES)
    for n, kind in fields.kinds.items():
        schema.add_field(f"has{n}", DataType.BOOL)
        held = getattr(DataType, _STORED[KINDS[kind].dtype][0])
        long = {"max_length": MAX_BYTES} if held == DataType.VARCHAR else {}
        if KINDS[kind].is_list:
            long |= {"element_type": held, "max_capacity": MAX_STRINGS}
            held = DataType.ARRAY
        schema.add_field(f"f{n}", held, **long)
    client.create_collection(name, schema=schema, consistency_level="Strong", timeout=WRITE_SECONDS)
    for part in _inserts(_rows(vectors, has_padding_dim, ids, fields)):
        client.insert(name, part, timeout=WRITE_SECONDS)
    client.flush(name, timeout=WRITE_SECONDS)
    index, kind = client.prepare_index_params(), index_type(parameters)
    shape = {"M": parameters.m, "efConstruction": parameters.ef_construction} if kind == HNSW_TYPE else {}
    index.add_index(VECTOR, index_type=kind, metric_type="IP", params=shape)
    client.create_index(name, index, timeout=WRITE_SECONDS)
    client.load_collection(name, timeout=WRITE_SECONDS)


def _rows(
    vectors: Vectors, has_padding_dim: bool, ids: Sequence[str], fields: CollectionFields
) -> Iterator[dict[str, Any]]:
    for first in range(0, len(vectors), INSERT_ROWS):
        some = searched_vectors(vectors[first : first + INSERT_ROWS], has_padding_dim)
        rows = fields.rows(first, first + len(some))
        for row, (item, vector) in enumerate(zip(rows, some, strict=True), first):
            yield item | {ID: row, VECTOR: np.asarray(vector)} | ({ITEM_ID: ids[row]} if ids else {})


def check_collection(client: Any, name: str, folder: Path, manifest: Manifest) -> None:
    """Load the collection of a bundle, and compare it with the bundle; all reads are strongly consistent.

    Raises:
        BundleDamaged: there is no such collection, or it is of another bundle or holds other items.
        Unavailable: the server does not answer.
    """
    version, where = manifest.bundle_version, f"collection {name} in Milvus ({URI})"
    with server_errors():
        if not client.has_collection(name, timeout=CONNECT_SECONDS):
            raise BundleDamaged(
                f"bundle {version[:12]}: there is no {where}: export or register the bundle again, or "
                "name the server that holds it"
            )
        said = client.describe_collection(name, timeout=CONNECT_SECONDS)
        if said.get("description") not in (version, ""):  # milvus-lite keeps no description
            raise BundleDamaged(f"{where}: written for another bundle than {version[:12]}")
        client.load_collection(name, timeout=WRITE_SECONDS)
        strong = {"consistency_level": "Strong", "timeout": WRITE_SECONDS}
        counted = client.query(name, filter="", output_fields=["count(*)"], **strong)[0]["count(*)"]
        if counted != manifest.count:
            raise BundleDamaged(
                f"{where}: holds {counted} items, but bundle {version[:12]} has {manifest.count}"
            )
        sample = np.unique(np.linspace(0, manifest.count - 1, SAMPLE).astype(np.int64))
        found = client.query(
            name, filter=f"{ID} in {sample.tolist()}", output_fields=[ID, VECTOR, ITEM_ID], **strong
        )
    expected = searched_vectors(vectors_of(folder, manifest)[sample], manifest.score.has_padding_dim)
    ids = parse_json((folder / ITEMS).read_bytes())["ids"]
    held = {int(each[ID]): each for each in found}
    for row, vector in zip(sample.tolist(), expected, strict=True):
        item = held.get(row)
        if item is None or item[ITEM_ID] != ids[row]:
            raise BundleDamaged(f"{where}: holds another item {row} than bundle {version[:12]}")
        if not np.array_equal(np.asarray(item[VECTOR], np.float32), vector):
            raise BundleDamaged(f"{where}: holds another vector of item {row} than bundle {version[:12]}")
