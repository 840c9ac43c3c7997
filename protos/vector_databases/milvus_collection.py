"""Writes the collection of a bundle on a Milvus server: whole or not at all.

A collection is written under another name, loaded, compared with the bundle and then renamed, so one that has
its final name is whole. What it cannot hold is refused before anything is written.
"""

import json
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twinspire.protos.bundle import ITEMS, IndexParameters, Manifest
from twinspire.protos.documents import parse_json
from twinspire.protos.errors import BundleDamaged, DataError
from twinspire.protos.filter_kinds import KINDS
from twinspire.protos.filters import column_values, read_filters
from twinspire.protos.nearest.vectors import vectors_of
from twinspire.protos.vector_databases.milvus import (
    CONNECT_SECONDS,
    DISPLAY,
    DRAFT_DIGITS,
    FLAT_TYPE,
    HNSW_TYPE,
    ID,
    MAX_BYTES,
    PART,
    PARTS,
    PREFIX,
    URI,
    VECTOR,
    WRITE_SECONDS,
    check_collection,
    collection_name,
    index_type,
    literal,
    server_errors,
)

MAX_STRINGS = 4096  # of one item in a field
MAX_STRINGS_BYTES = 1 << 20  # of all strings of one item in a field
MAX_FIELDS = 30  # filter fields that a collection holds; a collection has at most 64 fields
# Of one insert. A server takes 64 MiB, and the last item of an insert may add MAX_FIELDS times 1 MiB.
INSERT_ROWS, INSERT_BYTES = 2000, 8 << 20
# Of fewer items all are compared: Milvus builds no graph for less than 1,024, and 2.3.5 then misses some.
SMALLEST_GRAPH = 4096
SAMPLE = 16  # items whose vectors and fields are compared
Vectors = npt.NDArray[np.float32]


class CollectionItems:
    """What the collection of a bundle holds of its N items beside their vectors.

    Args:
        kinds: types of the filter fields, in ascending order of the fields' names.
        ids: of the items.
        fields: display field -> text of each item, None where it is absent.
        filters: for each filter field the value of each item, None where it is absent.

    Raises:
        DataError: a collection cannot hold an id, a field or a value; the text names it.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        ids: Sequence[str],
        fields: dict[str, Sequence[str | None]],
        filters: Sequence[Sequence[Any]],
    ) -> None:
        self.kinds, self._ids, self._fields, self._filters = kinds, ids, fields, filters
        if len(kinds) > MAX_FIELDS:
            raise DataError(f"filter.fields: expected at most {MAX_FIELDS} for Milvus, got {len(kinds)}")
        for row, item_id in enumerate(ids):
            if literal(item_id) is None:
                raise _refused(row, "an id", item_id)
        for values in filters:
            for row, value in enumerate(values):
                if isinstance(value, tuple):
                    _check_strings(row, value)

    @classmethod
    def of(cls, folder: Path, manifest: Manifest) -> "CollectionItems":
        """The items of a bundle with all its files."""
        table = parse_json((folder / ITEMS).read_bytes())
        columns = sorted(read_filters(folder, manifest).items())
        return cls(
            [manifest.filters[name] for name, _ in columns],
            table["ids"],
            table["fields"],
            [column_values(column, manifest.count) for _, column in columns],
        )

    def row(self, n: int) -> dict[str, Any]:
        """The fields of an item, without its vector.

        Raises:
            DataError: the display fields are longer than a collection can hold.
        """
        shown = {name: texts[n] for name, texts in self._fields.items() if texts[n] is not None}
        display = json.dumps(shown, ensure_ascii=False)
        if len(display.encode()) > MAX_BYTES:
            raise DataError(
                f"items, row {n}: expected display fields of at most {MAX_BYTES} bytes for Milvus"
            )
        row: dict[str, Any] = {ID: self._ids[n], DISPLAY: display, PART: n % PARTS}
        for place, (kind, values) in enumerate(zip(self.kinds, self._filters, strict=True)):
            _, empty, cast = ("ARRAY", [], list) if KINDS[kind].is_list else _STORED[KINDS[kind].dtype]
            value = values[n]
            row[f"has{place}"] = value is not None
            row[f"f{place}"] = empty if value is None else cast(value)
        return row


# Stored type of a field's values, None for strings -> type in Milvus, value where it is absent, and cast.
_STORED: dict[Any, tuple[str, Any, Callable[[Any], Any]]] = {
    np.float64: ("DOUBLE", 0.0, float),
    np.int8: ("BOOL", False, bool),
    np.int64: ("INT64", 0, int),
    None: ("VARCHAR", "", "".join),  # `column_values` gives every string in a tuple
}


def _check_strings(row: int, texts: Sequence[str]) -> None:
    for text in texts:
        if literal(text) is None:
            raise _refused(row, "a string of a filter field", text)
    if len(texts) > MAX_STRINGS or sum(len(text.encode()) for text in texts) > MAX_STRINGS_BYTES:
        most = f"at most {MAX_STRINGS} strings and {MAX_STRINGS_BYTES} bytes"
        raise DataError(f"items, row {row}: expected {most} in a filter field for Milvus")


def _refused(row: int, what: str, text: str) -> DataError:
    expected = f"{what} of at most {MAX_BYTES} bytes without control characters for Milvus"
    return DataError(f"items, row {row}: expected {expected}, got {text[:40]!r}")


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
        folder: of the bundle with all its files.
        manifest: sealed.

    Raises:
        BundleDamaged: the server returns other items than were written.
        DataError: a collection cannot hold the items; the text says why.
        Unavailable: the server does not answer.
    """
    name = collection_name(manifest.bundle_version)
    with server_errors():
        for each in client.list_collections(timeout=CONNECT_SECONDS):
            if each.startswith(f"{PREFIX}draft_{manifest.bundle_version[:DRAFT_DIGITS]}_"):
                client.drop_collection(each, timeout=WRITE_SECONDS)  # of an export that was killed
        is_written = client.has_collection(name, timeout=CONNECT_SECONDS)
    items, vectors = CollectionItems.of(folder, manifest), vectors_of(folder, manifest)
    if not is_written:
        with draft(client, manifest.bundle_version) as made:
            with server_errors():
                fill(client, made, vectors, manifest.index, items, manifest.bundle_version)
            check_collection(client, made, manifest)
            compare(client, made, vectors, items)
            with server_errors():
                client.rename_collection(made, name, timeout=WRITE_SECONDS)
    check_collection(client, name, manifest)
    compare(client, name, vectors, items)
    return name


@contextmanager
def draft(client: Any, of: str) -> Iterator[str]:
    """A new name, whose collection is dropped if the block fails; `of` is a bundle's version, or `index`."""
    name = draft_name(of)
    try:
        yield name
    except BaseException:
        with suppress(Exception):  # the first error is the one to tell; the next export drops it
            client.drop_collection(name, timeout=CONNECT_SECONDS)
        raise


def draft_name(of: str) -> str:
    """A new name for a collection that is being written."""
    return f"{PREFIX}draft_{of[:DRAFT_DIGITS]}_{int(time.time()):08x}{secrets.token_hex(4)}"


def fill(
    client: Any,
    name: str,
    vectors: Vectors,
    parameters: IndexParameters,
    items: CollectionItems,
    description: str = "",
) -> None:
    """Create a collection, insert N items, index and load it.

    Args:
        vectors: float32 (N, D), as the bundle holds them.
        items: the other fields.
        description: of the collection: the version of its bundle.
    """
    from pymilvus import DataType

    text = {"datatype": DataType.VARCHAR, "max_length": MAX_BYTES}
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False, description=description)
    schema.add_field(ID, is_primary=True, **text)
    schema.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=vectors.shape[1])
    schema.add_field(DISPLAY, **text)
    schema.add_field(PART, DataType.INT8)
    for n, kind in enumerate(items.kinds):
        schema.add_field(f"has{n}", DataType.BOOL)
        held = getattr(DataType, _STORED[KINDS[kind].dtype][0])
        long = {"max_length": MAX_BYTES} if held == DataType.VARCHAR else {}
        if KINDS[kind].is_list:
            long |= {"element_type": held, "max_capacity": MAX_STRINGS}
            held = DataType.ARRAY
        schema.add_field(f"f{n}", held, **long)
    client.create_collection(name, schema=schema, consistency_level="Strong", timeout=WRITE_SECONDS)
    rows = (items.row(n) | {VECTOR: np.asarray(vector)} for n, vector in enumerate(vectors))
    for part in _inserts(rows):
        client.insert(name, part, timeout=WRITE_SECONDS)
    client.flush(name, timeout=WRITE_SECONDS)
    index, kind = client.prepare_index_params(), index_type(parameters)
    if len(vectors) < SMALLEST_GRAPH:
        kind = FLAT_TYPE
    shape = {"M": parameters.m, "efConstruction": parameters.ef_construction} if kind == HNSW_TYPE else {}
    index.add_index(VECTOR, index_type=kind, metric_type="IP", params=shape)
    client.create_index(name, index, timeout=WRITE_SECONDS)
    client.load_collection(name, timeout=WRITE_SECONDS)


def compare(client: Any, name: str, vectors: Vectors, items: CollectionItems) -> None:
    """Compare a sample of the items of a collection with those of its bundle.

    Raises:
        BundleDamaged: the collection holds others.
        Unavailable: the server does not answer.
    """
    sample = np.unique(np.linspace(0, len(vectors) - 1, SAMPLE).astype(np.int64)).tolist()
    expected = {row[ID]: (n, row) for n in sample for row in [items.row(n)]}
    wanted = ", ".join(str(literal(item_id)) for item_id in expected)
    with server_errors():
        found = client.query(
            name,
            filter=f"{ID} in [{wanted}]",
            output_fields=[VECTOR, *next(iter(expected.values()))[1]],
            consistency_level="Strong",
            timeout=WRITE_SECONDS,
        )
    held = {each[ID]: each for each in found}
    where = f"collection {name} in Milvus ({URI})"
    for item_id, (n, row) in expected.items():
        item = held.get(item_id)
        if item is None or any(item[field] != value for field, value in row.items()):
            raise BundleDamaged(f"{where}: holds another item {n} than the bundle")
        if not np.array_equal(np.asarray(item[VECTOR], np.float32), vectors[n]):
            raise BundleDamaged(f"{where}: holds another vector of item {n} than the bundle")
