"""Vector databases: what export and the service need from one, and the names and checks of its collections.

Another one is a name in `REMOTE_KINDS` (`protos/bundle.py`), a module of that name here, whose `ENGINE`
implements `VectorDatabase`, and one in `serving/index/collections/`. Its address and credentials come from
the environment alone: no bundle, log or error holds them.
"""

import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, NamedTuple, Protocol, Self, cast

import numpy as np
import numpy.typing as npt

from twinspire.protos import names
from twinspire.protos.bundle import MANIFEST, REMOTE_KINDS, IndexParameters, Manifest
from twinspire.protos.errors import BundleDamaged, BundleError, PackageMissing

PREFIX = "twinspire_"  # of the names of all collections
DRAFT_DIGITS = 24  # of a bundle's version, in the name of a draft
HNSW_TYPE, FLAT_TYPE = "HNSW", "FLAT"
INDEX_TYPES = (HNSW_TYPE, FLAT_TYPE)  # `index.options.type` of a manifest; FLAT compares all items
CONNECT_SECONDS, WRITE_SECONDS = 5.0, 600.0
_COLLECTION = re.compile(rf"{PREFIX}([0-9a-f]{{64}})")
_DRAFT = re.compile(rf"{PREFIX}draft_(?:[0-9a-f]{{{DRAFT_DIGITS},32}}|index)_([0-9a-f]{{8}})[0-9a-f]{{8}}")

Vectors = npt.NDArray[np.float32]


class ItemRow(NamedTuple):
    """What a collection holds of an item beside its vector.

    Args:
        display: the display fields as JSON: {"<field>": "<text>"}, without those that it lacks.
        values: of the filter fields in ascending order of their names: a string, list of strings, float,
            bool, or microseconds since 1970; None where the item has none.
    """

    item_id: str
    display: str
    values: tuple[Any, ...]


class Described(NamedTuple):
    """What a server says of a collection: its bundle's version, empty if unknown; names of fields; items."""

    version: str
    fields: set[str]
    items: int


@dataclass(frozen=True)
class Limits:
    """What a collection of an engine can hold.

    Args:
        fields: filter fields.
        string_bytes: of an id, or of a string of a filter field, in UTF-8.
        display_bytes: of the display fields as JSON.
        strings: of an item in a field.
        strings_bytes: of all strings of an item in a field.
        refused: a character that no string may have; `refused_name` names such characters.
    """

    engine: str
    fields: int
    string_bytes: int
    display_bytes: int
    strings: int
    strings_bytes: int
    refused: re.Pattern[str]
    refused_name: str

    def holds(self, text: str) -> bool:
        """Whether a collection can hold a string; none holds lone surrogates."""
        if self.refused.search(text):
            return False
        try:
            return len(text.encode()) <= self.string_bytes
        except UnicodeEncodeError:
            return False


class VectorDatabase(Protocol):
    """A connection to a vector database, for one thread at a time.

    All methods raise Unavailable if the server does not answer; no text shows its address.

    Attributes:
        title: the engine and the variable that names the server, for errors.
        packages: that a model with its items there needs.
        widest: the largest width of a search, which is `ef_search`.
    """

    title: ClassVar[str]
    packages: ClassVar[Sequence[str]]
    limits: ClassVar[Limits]
    widest: ClassVar[int]

    @classmethod
    def connect(cls, seconds: float = CONNECT_SECONDS) -> Self:
        """Connect to the server of the environment.

        Raises:
            ConfigError: the environment names none.
            PackageMissing: the client is not installed.
        """

    def names(self) -> list[str]:
        """All collections whose names begin with `PREFIX`."""

    def describe(self, name: str, seconds: float = WRITE_SECONDS) -> Described | None:
        """What a collection is, after it has been made ready for searches; None if there is none."""

    def fields(self, count: int) -> set[str]:
        """The names of a collection's fields where the bundle has `count` filter fields."""

    def create(
        self,
        name: str,
        vectors: Vectors,
        parameters: IndexParameters,
        kinds: Sequence[str],
        rows: Iterator[ItemRow],
        version: str,
    ) -> None:
        """Write a collection of N items with its index.

        Args:
            vectors: float32 (N, D).
            kinds: types of the filter fields.
            rows: N, in the order of the vectors.
            version: of the bundle; empty for a draft without one.

        Raises:
            DataError: the engine cannot hold the items, or build such an index.
        """

    def read(
        self, name: str, item_ids: Sequence[str], kinds: Sequence[str]
    ) -> dict[str, tuple[ItemRow, Vectors]]:
        """The items with these ids, of all earlier writes."""

    def rename(self, name: str, new: str) -> None:
        """Give a collection its final name."""

    def drop(self, name: str, seconds: float = WRITE_SECONDS) -> None:
        """Drop a collection; one that is not there is fine."""

    def nearest(self, name: str, queries: Vectors, k: int, parameters: IndexParameters) -> list[list[str]]:
        """For each query (Q, D) the ids of the best `k` items, best first, as the service finds them."""

    def close(self) -> None:
        """End the connection."""


def database_of(kind: str) -> type[VectorDatabase]:
    """The vector database of a kind of index.

    Raises:
        BundleError: this program does not have it.
        PackageMissing: it needs a package that is not installed.
    """
    return cast(type[VectorDatabase], engine_module("twinspire.protos.vector_databases", kind).ENGINE)


def uri_variable(kind: str) -> str:
    """The variable of the environment that names the server of a kind of index."""
    return f"TWINSPIRE_{kind.upper()}_URI"


def engine_module(package: str, kind: str) -> Any:
    """The module of a kind of remote index in a package; errors as of `database_of`."""
    if kind not in REMOTE_KINDS:
        known = ", ".join(sorted(REMOTE_KINDS))
        raise BundleError(f"{MANIFEST}: index.kind: expected one of {known}, got {kind!r}")
    try:
        return import_module(f"{package}.{kind}")
    except ImportError as error:
        raise PackageMissing(f"an index of kind {kind} needs {error.name}: pip install .[{kind}]") from None


def collection_name(version: str) -> str:
    """The collection of a bundle, by the bundle's version."""
    return f"{PREFIX}{names.bundle_version(version)}"


def bundle_of(collection: str) -> str | None:
    """The version of a collection's bundle; None if the collection is not one of a bundle."""
    found = _COLLECTION.fullmatch(collection)
    return found[1] if found else None


def draft_name(of: str) -> str:
    """A new name for a collection that is being written; `of` is a bundle's version, or `index`."""
    return f"{draft_prefix(of)}_{int(time.time()):08x}{secrets.token_hex(4)}"


def draft_prefix(of: str) -> str:
    """The beginning of the names of all drafts of a bundle."""
    return f"{PREFIX}draft_{of[:DRAFT_DIGITS]}"


def draft_seconds(collection: str) -> int | None:
    """When the writing of a collection began, in Unix seconds; None if it is not a draft."""
    found = _DRAFT.fullmatch(collection)
    return int(found[1], 16) if found else None


@contextmanager
def draft(database: VectorDatabase, of: str) -> Iterator[str]:
    """A new name, whose collection is dropped if the block fails; `of` as in `draft_name`."""
    name = draft_name(of)
    try:
        yield name
    except BaseException:
        with suppress(Exception):  # the first error is the one to tell; the next export drops it
            database.drop(name, CONNECT_SECONDS)
        raise


def index_type(parameters: IndexParameters) -> str:
    """The type of the index: one of `INDEX_TYPES`.

    Raises:
        BundleDamaged: the manifest names another one.
    """
    found = parameters.options.get("type", HNSW_TYPE)
    if found not in INDEX_TYPES:
        expected = ", ".join(INDEX_TYPES)
        raise BundleDamaged(f"{MANIFEST}: index.options.type: expected one of {expected}, got {found!r}")
    return str(found)


def check_collection(
    database: VectorDatabase, name: str, manifest: Manifest, seconds: float = WRITE_SECONDS
) -> None:
    """Check that a collection is the bundle's and whole, and make it ready for searches.

    Args:
        seconds: that each question to the server may take.

    Raises:
        BundleDamaged: there is no such collection, or it is of another bundle or holds other items.
        Unavailable: the server does not answer.
    """
    version, where = manifest.bundle_version[:12], f"collection {name} in {database.title}"
    found = database.describe(name, seconds)
    if found is None:
        raise BundleDamaged(
            f"bundle {version}: there is no {where}: export or register the bundle again, or "
            "name the server that holds it"
        )
    if found.version not in (manifest.bundle_version, ""):  # milvus-lite keeps no description
        raise BundleDamaged(f"{where}: written for another bundle than {version}")
    if found.fields != database.fields(len(manifest.filters)):
        raise BundleDamaged(
            f"{where}: has the fields {', '.join(sorted(found.fields))}, which another version of this "
            "program has written: drop it, and register the bundle again"
        )
    if found.items != manifest.count:
        raise BundleDamaged(f"{where}: holds {found.items} items, but bundle {version} has {manifest.count}")
