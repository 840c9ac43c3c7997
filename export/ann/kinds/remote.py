"""Collections on the server of a vector database (`protos/vector_databases/database.py`).

The collection of a bundle is written when the bundle's hash is known. Before, ef is chosen by searches of a
collection of the vectors alone, which is dropped when its index is no longer needed.
"""

import time
import weakref
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from twinspire.export.ann.ef_search import EfChoice, Point, ef_ladder, reaches_target
from twinspire.export.ann.graph import Rows, Vectors
from twinspire.export.ann.index_kind import TunedIndex
from twinspire.export.ann.search import exact, recalls
from twinspire.protos.bundle import IndexParameters, Score
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
        self.database, self.vectors, self._parameters = database_of(parameters.kind)(), vectors, parameters
        ids = [*map(str, range(len(vectors)))]
        items = CollectionItems(self.database.limits, vectors, [], ids, {}, [])
        with draft(self.database, "index") as self.name:
            self.database.create(self.name, items, parameters, "")
        weakref.finalize(self, _drop, self.database, self.name)

    def search(self, queries: Vectors, k: int, ef_search: int) -> Rows:
        """As `TunedIndex.search`; -1 where the index finds no more."""
        k = min(k, len(self.vectors))
        found = np.full((len(queries), k), -1, np.int64)
        ef = ef_of_search(replace(self._parameters, ef_search=ef_search), k)
        for start in range(0, len(queries), QUERIES):
            some = queries[start : start + QUERIES]
            for n, hits in enumerate(self.database.search(self.name, some, k, ef), start):
                found[n, : len(hits)] = [int(item_id) for item_id, _, _ in hits]
        return found


def _drop(database: VectorDatabase, name: str) -> None:
    with suppress(Exception), closing(database):  # a draft that stays is dropped by `make prune`
        database.drop(name, CONNECT_SECONDS)


def tune(vectors: Vectors, queries: Vectors, config: IndexConfig, score: Score) -> TunedIndex:
    """Choose the smallest ef that reaches the target, as `export.ann.ef_search` does for a graph here.

    Arguments and errors are those of `IndexKind.tune`. FLAT compares all items, as `exact` does.
    """
    options = {"type": config.options.get("type", HNSW_TYPE)}
    shape = ("ip", config.m, config.ef_construction, 2 * config.k, config.seed)
    parameters = IndexParameters(*shape, kind=config.kind, options=options)
    report: dict[str, Any] = {"items": len(vectors), "k": config.k, "target": config.recall_target}
    database = database_of(config.kind)()
    engine = database.limits.engine
    if options["type"] == FLAT_TYPE:
        with closing(database):
            database.names()  # an error before hours of other work
        point = {"ef": 2 * config.k, "recall": 1.0, "standard_error": 0.0, "queries": len(queries)}
        report |= {"ef_search": 2 * config.k, "reached": True, "build_s": 0.0, "points": [point]}
        report["why"] = f"{engine} compares all items, as configured."
        return TunedIndex(parameters, report, lambda queries, k: exact(queries, vectors, k))
    begun = time.perf_counter()
    with PROGRESS.status(f"a collection in {engine}, to choose ef"):
        collection = _Collection(vectors, parameters)
    built = time.perf_counter() - begun
    with PROGRESS.status("ef"):
        choice = _choose(collection, queries, config)
    reached = "reaches" if choice.reached else "is the largest tried and does not surely reach"
    report |= {"ef_search": choice.ef_search, "reached": choice.reached, "build_s": built}
    report |= {"points": [*choice.curve]}
    report["why"] = (
        f"{engine} HNSW, M {config.m} and efConstruction {config.ef_construction}; ef {choice.ef_search} "
        f"{reached} {config.recall_target}: recall@{config.k} {choice.point['recall']:.4f}."
    )
    search = partial(collection.search, ef_search=choice.ef_search)
    return TunedIndex(replace(parameters, ef_search=choice.ef_search), report, search)


def _choose(collection: _Collection, queries: Vectors, config: IndexConfig) -> EfChoice:
    """The smallest ef that reaches the target, or the largest if none does."""
    curve: list[Point] = []
    vectors = collection.vectors
    most = collection.database.max_ef
    for ef in sorted({min(each, most) for each in ef_ladder(config.k, len(vectors))}):
        each = recalls(collection.search(queries, config.k, ef), vectors, queries, config.k)
        error = float(each.std() / len(each) ** 0.5)
        curve.append({"ef": ef, "recall": float(each.mean()), "standard_error": error, "queries": len(each)})
        if reaches_target(curve[-1], config.recall_target):
            return EfChoice(ef, True, curve)
        if ef >= len(vectors):
            break
    return EfChoice(curve[-1]["ef"], False, curve)
