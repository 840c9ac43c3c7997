"""Vector databases: what export and the service need from one, and the names and checks of its collections.

Another one is a name in `REMOTE_KINDS` (`protos/bundle.py`), and a module of that name here, whose `ENGINE`
implements `VectorDatabase`. Its address and credentials come from the environment alone: no bundle, log or
error holds them.
"""

import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import ClassVar, NamedTuple, Protocol, cast

from twinspire.protos import names
from twinspire.protos.bundle import MANIFEST, REMOTE_KINDS, IndexParameters, Manifest
from twinspire.protos.errors import BundleDamaged, BundleError, PackageMissing
from twinspire.protos.vector_databases.items import CollectionItems, ItemRow, Limits, Vectors

PREFIX = "twinspire_"  # of the names of all collections
DRAFT_DIGITS = 24  # of a bundle's version, in the name of a draft
HNSW_TYPE, FLAT_TYPE = "HNSW", "FLAT"
INDEX_TYPES = (HNSW_TYPE, FLAT_TYPE)  # `index.options.type` of a manifest; FLAT compares all items
CONNECT_SECONDS, WRITE_SECONDS = 5.0, 600.0
_COLLECTION = re.compile(rf"{PREFIX}([0-9a-f]{{64}})")
_DRAFT = re.compile(rf"{PREFIX}draft_(?:[0-9a-f]{{{DRAFT_DIGITS},32}}|index)_([0-9a-f]{{8}})[0-9a-f]{{8}}")

Hit = tuple[str, str, float]  # of a search: the item's id, its display fields as of `ItemRow`, inner product


class Described(NamedTuple):
    """What a server says of a collection: its bundle's version, empty if unknown, and names of fields."""

    version: str
    fields: set[str]


@dataclass(frozen=True)
class Syntax:
    """How an engine writes conditions; each is true or false of an item, and never unknown.

    Args:
        never: a condition that no item passes.
        present: number of a field -> that the item has a value of it; `absent`: that it has none.
        literal: a string as part of a condition; None if no item can have it.
        any_of: number and type of a field, and at least one literal -> that its value is one of them.
    """

    never: str
    present: Callable[[int], str]
    absent: Callable[[int], str]
    literal: Callable[[str], str | None]
    any_of: Callable[[int, str, Sequence[str]], str]


class VectorDatabase(Protocol):
    """A vector database on the server that the environment names; it is connected when it is first asked.

    After the first answer any thread may ask, but not after a fork. All methods that ask raise Unavailable if
    the server does not answer within `seconds`; to connect may add `CONNECT_SECONDS`, and `create` takes as
    long as the engine works. No text shows its address. Reads see all that was written before the last
    `create` or `describe`.

    Attributes:
        title: the engine and the variable that names the server, for errors.
        packages: that a model with its items there needs.
        max_ef: the largest `ef` of a search.
        max_k: items that one search returns at most.
    """

    title: ClassVar[str]
    packages: ClassVar[Sequence[str]]
    limits: ClassVar[Limits]
    syntax: ClassVar[Syntax]
    max_ef: ClassVar[int]
    max_k: ClassVar[int]

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        """Raises ConfigError if the environment does not name a server; no text shows a value."""

    def names(self) -> list[str]:
        """All collections whose names begin with `PREFIX`."""

    def describe(self, name: str, seconds: float = WRITE_SECONDS) -> Described | None:
        """What a collection is, after it has been made ready for searches; None if there is none."""

    def fields(self, count: int) -> set[str]:
        """The names of a collection's fields where the bundle has `count` filter fields."""

    def create(self, name: str, items: CollectionItems, parameters: IndexParameters, version: str) -> None:
        """Write a collection with its index.

        Args:
            version: of the bundle; empty for a draft without one.

        Raises:
            ConfigError: the database lacks what collections need.
            DataError: the engine cannot hold the items, or build such an index.
        """

    def read(
        self, name: str, item_ids: Sequence[str], kinds: Sequence[str] = (), seconds: float = WRITE_SECONDS
    ) -> dict[str, tuple[ItemRow, Vectors]]:
        """The items with these ids, by id; unknown ones are left out.

        Args:
            kinds: types of the filter fields to read: all or none.
        """

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
        """For each query (B, D) the `k` best items that pass, best first; fewer where the index misses some.

        Args:
            ef: candidates of the search of a graph, as of `ef_of_search`.
            condition: in the engine's syntax; empty text passes all items.
            is_exact: compare all items that pass.

        Raises:
            InvalidInput: the server does not take the condition.
        """

    def count(self, name: str, condition: str = "", seconds: float = WRITE_SECONDS) -> int:
        """How many items pass; arguments and errors as of `search`."""

    def rename(self, name: str, new: str) -> None:
        """Give a collection its final name."""

    def drop(self, name: str, seconds: float = WRITE_SECONDS) -> None:
        """Drop a collection; one that is not there is fine."""

    def close(self) -> None:
        """End the connection."""


def database_of(kind: str) -> type[VectorDatabase]:
    """The vector database of a kind of index.

    Raises:
        BundleError: this program does not have it.
        PackageMissing: it needs a package that is not installed.
    """
    if kind not in REMOTE_KINDS:
        known = ", ".join(sorted(REMOTE_KINDS))
        raise BundleError(f"{MANIFEST}: index.kind: expected one of {known}, got {kind!r}")
    try:
        module = import_module(f"twinspire.protos.vector_databases.{kind}")
    except ImportError as error:
        raise PackageMissing(f"an index of kind {kind} needs {error.name}: pip install .[{kind}]") from None
    return cast(type[VectorDatabase], module.ENGINE)


def uri_variable(kind: str) -> str:
    """The variable of the environment that names the server of a kind of index."""
    return f"TWINSPIRE_{kind.upper()}_URI"


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


def ef_of_search(parameters: IndexParameters, k: int) -> int:
    """The candidates that a search for `k` items keeps, which engines call ef."""
    return max(parameters.ef_search, 2 * k)


def countdown(seconds: float) -> Callable[[], float]:
    """A function that returns how much of `seconds` from now is left, 1 ms at least."""
    deadline = time.monotonic() + seconds
    return lambda: max(deadline - time.monotonic(), 0.001)


def check_collection(
    database: VectorDatabase, name: str, manifest: Manifest, seconds: float = WRITE_SECONDS
) -> None:
    """Check that a collection is the bundle's and whole, and make it ready for searches.

    Args:
        seconds: that all questions to the server may take together.

    Raises:
        BundleDamaged: there is no such collection, or it is of another bundle or holds other items.
        Unavailable: the server does not answer.
    """
    version, where = manifest.bundle_version[:12], f"collection {name} in {database.title}"
    left = countdown(seconds)
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
    if (count := database.count(name, seconds=left())) != manifest.count:
        raise BundleDamaged(f"{where}: holds {count} items, but bundle {version} has {manifest.count}")
