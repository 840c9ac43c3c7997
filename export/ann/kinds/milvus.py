"""Collections on a Milvus server, which the environment names (`protos/vector_databases/milvus.py`).

The collection of a bundle is written when the bundle's hash is known. Before, ef is chosen by searches of a
collection of the vectors alone, which is dropped when its index is no longer needed.
"""

import time
import weakref
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from twinspire.export.ann.ef_search import EfChoice, Point, ef_ladder, reaches_target
from twinspire.export.ann.graph import Rows, Vectors
from twinspire.export.ann.index_kind import IndexKind, TunedIndex
from twinspire.export.ann.search import exact, recalls
from twinspire.protos.bundle import MILVUS, IndexParameters, Manifest, Score
from twinspire.protos.vector_databases.milvus import (
    CONNECT_SECONDS,
    FLAT_TYPE,
    HNSW_TYPE,
    ID,
    WRITE_SECONDS,
    MilvusServer,
    search_params,
    server_errors,
)
from twinspire.protos.vector_databases.milvus_collection import CollectionItems, draft, fill, write_collection
from twinspire.train.config.index import IndexConfig

QUERIES = 64  # in one search


class _Collection:
    """A draft collection of item vectors, dropped when this object is no longer needed."""

    def __init__(self, vectors: Vectors, parameters: IndexParameters) -> None:
        self._client = MilvusServer.from_environment().connect()
        items = CollectionItems([], [*map(str, range(len(vectors)))], {}, [])
        with draft(self._client, "index") as self.name, server_errors():
            fill(self._client, self.name, vectors, parameters, items)
        weakref.finalize(self, _drop, self._client, self.name)

    def search(self, queries: Vectors, k: int, parameters: IndexParameters) -> Rows:
        """The best `k` of each query (Q, D), best first: (Q, k), -1 where there are no more."""
        found = np.full((len(queries), k), -1, np.int64)
        with server_errors():
            for start in range(0, len(queries), QUERIES):
                answers = self._client.search(
                    self.name,
                    data=[*np.asarray(queries[start : start + QUERIES], np.float32)],
                    limit=k,
                    output_fields=[ID],
                    search_params=search_params(parameters, k),
                    timeout=WRITE_SECONDS,
                    consistency_level="Bounded",  # `fill` has flushed and loaded what it wrote
                )
                for n, hits in enumerate(answers, start):
                    found[n, : len(hits)] = [int(each[ID]) for each in hits]
        return found


def _drop(client: Any, name: str) -> None:
    with suppress(Exception):  # a draft that stays is dropped by `make prune`
        client.drop_collection(name, timeout=CONNECT_SECONDS)


@dataclass(frozen=True)
class TunedMilvus:
    """Item vectors (N, D), in a draft collection; None of FLAT, which compares all items, as `exact` does."""

    vectors: Vectors
    parameters: IndexParameters
    collection: _Collection | None

    def search(self, queries: Vectors, k: int) -> Rows:
        """As `SearchIndex.search`."""
        if self.collection is None:
            return exact(queries, self.vectors, k)
        return self.collection.search(queries, min(k, len(self.vectors)), self.parameters)

    def with_width(self, ef_search: int) -> "TunedMilvus":
        """The same, searched with another width."""
        return replace(self, parameters=replace(self.parameters, ef_search=ef_search))

    def save(self, folder: Path) -> None:
        """Nothing: the bundle holds the vectors, and `publish` writes the collection."""


class MilvusKind(IndexKind):
    """Implements `IndexKind`."""

    def tune(
        self, vectors: Vectors, queries: Vectors, config: IndexConfig, score: Score, console: Console
    ) -> TunedIndex:
        """Choose the smallest ef that reaches the target, as `export.ann.ef_search` does for a graph here.

        Raises:
            ConfigError: the environment names no server.
            Unavailable: the server does not answer.
        """
        options = {"type": config.options.get("type", HNSW_TYPE)}
        shape = ("ip", config.m, config.ef_construction, 2 * config.k, config.seed)
        parameters = IndexParameters(*shape, kind=MILVUS, options=options)
        index, begun = TunedMilvus(vectors, parameters, None), time.perf_counter()
        if options["type"] == FLAT_TYPE:
            MilvusServer.from_environment().connect().close()  # before hours of other work
            point = {"ef": 2 * config.k, "recall": 1.0, "standard_error": 0.0, "queries": len(queries)}
            choice, built = EfChoice(2 * config.k, True, [point]), 0.0
            why = "Milvus compares all items, as configured."
        else:
            with console.status("a collection in Milvus, to choose ef"):
                index = replace(index, collection=_Collection(vectors, parameters))
            built = time.perf_counter() - begun
            with console.status("ef"):
                choice = _choose(index, queries, config)
            reached = "reaches" if choice.reached else "is the widest tried and does not surely reach"
            why = (
                f"Milvus HNSW, M {config.m} and efConstruction {config.ef_construction}; ef "
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
        write_collection(MilvusServer.from_environment().connect(), folder, manifest)


def _choose(index: TunedMilvus, queries: Vectors, config: IndexConfig) -> EfChoice:
    """The smallest ef that reaches the target, or the widest if none does."""
    curve: list[Point] = []
    for ef in ef_ladder(config.k, len(index.vectors)):
        found = index.with_width(ef).search(queries, config.k)
        each = recalls(found, index.vectors, queries, config.k)
        error = float(each.std() / len(each) ** 0.5)
        curve.append({"ef": ef, "recall": float(each.mean()), "standard_error": error, "queries": len(each)})
        if reaches_target(curve[-1], config.recall_target):
            return EfChoice(ef, True, curve)
        if ef >= len(index.vectors):
            break
    return EfChoice(curve[-1]["ef"], False, curve)


KIND = MilvusKind()
