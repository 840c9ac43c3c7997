"""Collections on the server of a vector database (`protos/vector_databases/database.py`).

The collection of a bundle is written when the bundle's hash is known. Before, ef is chosen by searches of a
collection of the vectors alone, which is dropped when its index is no longer needed.
"""

import time
import weakref
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from twinspire.export.ann.ef_search import EfChoice, Point, ef_ladder, reaches_target
from twinspire.export.ann.graph import Rows, Vectors
from twinspire.export.ann.index_kind import IndexKind, TunedIndex
from twinspire.export.ann.search import exact, recalls
from twinspire.protos.bundle import IndexParameters, Manifest, Score
from twinspire.protos.vector_databases.collection import write_collection
from twinspire.protos.vector_databases.database import (
    CONNECT_SECONDS,
    FLAT_TYPE,
    HNSW_TYPE,
    VectorDatabase,
    database_of,
    draft,
    ef_of_search,
)
from twinspire.protos.vector_databases.items import CollectionItems
from twinspire.train.config.index import IndexConfig
from twinspire.train.progress import PROGRESS

QUERIES = 64  # of one search


class _Collection:
    """A draft collection of item vectors, dropped when this object is no longer needed."""

    def __init__(self, vectors: Vectors, parameters: IndexParameters) -> None:
        self.database = database_of(parameters.kind)()
        ids = [*map(str, range(len(vectors)))]
        items = CollectionItems(self.database.limits, vectors, [], ids, {}, [])
        with draft(self.database, "index") as self.name:
            self.database.create(self.name, items, parameters, "")
        weakref.finalize(self, _drop, self.database, self.name)

    def search(self, queries: Vectors, k: int, parameters: IndexParameters) -> Rows:
        """The best `k` of each query (Q, D), best first: (Q, k), -1 where there are no more."""
        found = np.full((len(queries), k), -1, np.int64)
        ef = ef_of_search(parameters, k)
        for start in range(0, len(queries), QUERIES):
            some = queries[start : start + QUERIES]
            for n, hits in enumerate(self.database.search(self.name, some, k, ef), start):
                found[n, : len(hits)] = [int(item_id) for item_id, _, _ in hits]
        return found


def _drop(database: VectorDatabase, name: str) -> None:
    with suppress(Exception), closing(database):  # a draft that stays is dropped by `make prune`
        database.drop(name, CONNECT_SECONDS)


@dataclass(frozen=True)
class TunedRemote:
    """Item vectors (N, D), in a draft collection; None of FLAT, which compares all items, as `exact` does."""

    vectors: Vectors
    parameters: IndexParameters
    collection: _Collection | None

    def search(self, queries: Vectors, k: int) -> Rows:
        """As `SearchIndex.search`."""
        if self.collection is None:
            return exact(queries, self.vectors, k)
        return self.collection.search(queries, min(k, len(self.vectors)), self.parameters)

    def with_width(self, ef_search: int) -> "TunedRemote":
        """The same, searched with another ef."""
        return replace(self, parameters=replace(self.parameters, ef_search=ef_search))

    def save(self, folder: Path) -> None:
        """Nothing: the bundle holds the vectors, and `publish` writes the collection."""


class RemoteKind(IndexKind):
    """Implements `IndexKind`.

    Args:
        kind: one of `REMOTE_KINDS`.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def tune(self, vectors: Vectors, queries: Vectors, config: IndexConfig, score: Score) -> TunedIndex:
        """Choose the smallest ef that reaches the target, as `export.ann.ef_search` does for a graph here.

        Raises:
            ConfigError: the environment names no server.
            Unavailable: the server does not answer.
        """
        options = {"type": config.options.get("type", HNSW_TYPE)}
        shape = ("ip", config.m, config.ef_construction, 2 * config.k, config.seed)
        parameters = IndexParameters(*shape, kind=self._kind, options=options)
        database = database_of(self._kind)()
        engine = database.limits.engine
        index, begun = TunedRemote(vectors, parameters, None), time.perf_counter()
        if options["type"] == FLAT_TYPE:
            with closing(database):
                database.names()  # an error before hours of other work
            point = {"ef": 2 * config.k, "recall": 1.0, "standard_error": 0.0, "queries": len(queries)}
            choice, built = EfChoice(2 * config.k, True, [point]), 0.0
            why = f"{engine} compares all items, as configured."
        else:
            with PROGRESS.status(f"a collection in {engine}, to choose ef"):
                index = replace(index, collection=_Collection(vectors, parameters))
            built = time.perf_counter() - begun
            with PROGRESS.status("ef"):
                choice = _choose(index, queries, config, database.max_ef)
            reached = "reaches" if choice.reached else "is the largest tried and does not surely reach"
            why = (
                f"{engine} HNSW, M {config.m} and efConstruction {config.ef_construction}; ef "
                f"{choice.ef_search} {reached} {config.recall_target}: recall@{config.k} "
                f"{choice.point['recall']:.4f}."
            )
        report = {
            "items": len(vectors),
            "k": config.k,
            "target": config.recall_target,
            "ef_search": choice.ef_search,
            "reached": choice.reached,
            "build_s": built,
            "points": [*choice.curve],
            "why": why,
        }
        return TunedIndex(index.with_width(choice.ef_search), report)

    def publish(self, folder: Path, manifest: Manifest) -> None:
        """As `IndexKind.publish`: the bundle's collection, whole or not at all."""
        with closing(database_of(self._kind)()) as database:
            write_collection(database, folder, manifest)


def _choose(index: TunedRemote, queries: Vectors, config: IndexConfig, max_ef: int) -> EfChoice:
    """The smallest ef that reaches the target, or the largest if none does."""
    curve: list[Point] = []
    for ef in [each for each in ef_ladder(config.k, len(index.vectors)) if each <= max_ef]:
        found = index.with_width(ef).search(queries, config.k)
        each = recalls(found, index.vectors, queries, config.k)
        error = float(each.std() / len(each) ** 0.5)
        curve.append({"ef": ef, "recall": float(each.mean()), "standard_error": error, "queries": len(each)})
        if reaches_target(curve[-1], config.recall_target):
            return EfChoice(ef, True, curve)
        if ef >= len(index.vectors):
            break
    return EfChoice(curve[-1]["ef"], False, curve)
