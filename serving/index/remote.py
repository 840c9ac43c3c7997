"""Collections on another server, which hold the items of a bundle, and the time that reading one may take.

Another vector database is a module in `collections/` with the name of its kind, whose `COLLECTION` is a class
with the methods of `RemoteCollection`; export writes and drops its collections by
`protos/vector_databases/`. A collection never changes: each version of a bundle has one of its own, so a swap
of bundles is a swap of collections.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from twinspire.protos.bundle import Manifest
from twinspire.protos.errors import Unavailable
from twinspire.protos.vector_databases.database import engine_module
from twinspire.serving.filters.expression import Filter

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
        PackageMissing: the kind needs a package that is not installed.
    """
    module = engine_module("twinspire.serving.index.collections", manifest.index.kind)
    collection: RemoteCollection = module.COLLECTION(manifest)
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


class Once:
    """Work that the first read does, and others wait for; it is done again after it has failed.

    Args:
        title: of the server, for errors.
    """

    def __init__(self, title: str) -> None:
        self._title, self._lock, self._is_done = title, threading.Lock(), False

    def run(self, work: Callable[[], None]) -> None:
        """Do the work if it is not done yet.

        Raises:
            Unavailable: the work of another read does not end in the time that is left.
        """
        if self._is_done:
            return
        if not self._lock.acquire(timeout=seconds_left()):
            raise Unavailable(f"{self._title} does not answer: another search waits for a connection")
        try:
            if not self._is_done:
                work()
                self._is_done = True
        finally:
            self._lock.release()
