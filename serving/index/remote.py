"""Collections on another server, which hold the items of a bundle, and the time that reading one may take.

Another vector database is a class with the methods of `RemoteCollection`, named in `COLLECTIONS`. Export
builds its collections (`export/ann/kinds/`) and drops them (`export/release/prune.py`). A collection never
changes: each version of a bundle has one of its own, so a swap of bundles is a swap of collections.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib import import_module
from typing import Protocol

import numpy as np
import numpy.typing as npt

from twinspire.protos.bundle import Manifest
from twinspire.protos.errors import Unavailable
from twinspire.serving.filters.expression import Filter

# Kind -> module and class, imported only for a bundle of that kind. The class takes the bundle's manifest.
# (`train/fingerprint.py` follows names of modules in strings.)
COLLECTIONS = {"milvus": ("twinspire.serving.index.milvus_collection", "MilvusCollection")}
SECONDS = 5.0  # that a search takes at most

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class RemoteItem:
    """An item of a collection, which takes the place of a row: equal to every other one with its id.

    Args:
        fields: its display fields, if they were read.
        vector: float32 (D,), if it was read.
    """

    item_id: str
    fields: Mapping[str, str] = field(default_factory=dict, compare=False)
    vector: Vectors | None = field(default=None, compare=False, repr=False)


RemoteHit = tuple[RemoteItem, float]  # and its inner product


class RemoteCollection(Protocol):
    """The items of one bundle on another server; for any thread. No read takes longer than `seconds_left`.

    All methods but `expression` raise Unavailable if the server does not answer in time, and BundleDamaged if
    the collection is missing, or is not the bundle's. The first of them connects, and so comes after a fork.

    Attributes:
        max_k: items that one search can return.
    """

    max_k: int

    def expression(self, node: Filter) -> str:
        """A filter that fits the bundle's fields, as the server evaluates it; empty text passes all items.

        Raises:
            InvalidInput: the server cannot evaluate it.
        """

    def search(
        self, vectors: Vectors, k: int, expression: str = "", is_exact: bool = False
    ) -> list[list[RemoteHit]]:
        """For each query (B, D) the `k` best items that pass, best first; fewer where the index misses some.

        Args:
            is_exact: compare all items that pass.
        """

    def get(self, item_ids: Sequence[str]) -> dict[str, RemoteItem]:
        """The items with these ids, with fields and vectors, by id; unknown ones are left out."""

    def count(self, expression: str) -> int:
        """How many items pass."""


def open_collection(manifest: Manifest) -> RemoteCollection:
    """The collection of a bundle of one of the `REMOTE_KINDS`; nothing is connected yet.

    Raises:
        ConfigError: the environment does not name the server.
    """
    module, name = COLLECTIONS[manifest.index.kind]
    collection: RemoteCollection = getattr(import_module(module), name)(manifest)
    return collection


_until: ContextVar[float] = ContextVar("until")


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Let all reads of this thread within the block take so long together."""
    token = _until.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _until.reset(token)


def seconds_left() -> float:
    """The time that a read may take now: what `within` has left, or `SECONDS`.

    Raises:
        Unavailable: there is none.
    """
    left = _until.get(time.monotonic() + SECONDS) - time.monotonic()
    if left <= 0:
        raise Unavailable("the server of the index has not answered in time")
    return left
