"""Collections on a Milvus server, which the environment names (`protos/vector_databases/milvus.py`).

The collection of a bundle is written when the bundle's hash is known. Before, ef is chosen by searches of a
collection of the vectors alone, which is dropped when its index is no longer needed.
"""

import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
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
    MAX_K,
    WRITE_SECONDS,
    MilvusServer,
    index_type,
    search_params,
    server_errors,
)
from twinspire.protos.vector_databases.milvus_collection import CollectionItems, draft, fill, write_collection
from twinspire.train.config.index import IndexConfig
from twinspire.train.plots import MODEL_COLOUR, style_axes

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
    """Item vectors (N, D), in a draft collection as soon as it is searched.

    FLAT compares all items, as `exact` does here, so it needs no collection.
    """

    vectors: Vectors
    parameters: IndexParameters
    made: list[_Collection] = field(default_factory=list)  # one at most; indexes of the same vectors share it

    @property
    def collection(self) -> _Collection:
        """The draft collection."""
        if not self.made:
            self.made.append(_Collection(self.vectors, self.parameters))
        return self.made[0]

    def search(self, queries: Vectors, k: int, seen: Sequence[Rows]) -> Rows:
        """As `SearchIndex.search`."""
        count = len(self.vectors)
        width = min(k + max(map(len, seen), default=0), count)
        if index_type(self.parameters) == FLAT_TYPE or width > MAX_K:
            return exact(queries, self.vectors, k, seen)
        best = np.full((len(queries), min(k, count)), -1, np.int64)
        found = self.collection.search(queries, width, self.parameters)
        for n, (rows, hidden) in enumerate(zip(found, seen, strict=True)):
            kept = rows[~np.isin(rows, hidden)][: best.shape[1]]
            best[n, : len(kept)] = kept
        return best

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
        index = TunedMilvus(vectors, IndexParameters(*shape, kind=MILVUS, options=options))
        begun = time.perf_counter()
        if options["type"] == FLAT_TYPE:
            MilvusServer.from_environment().connect().close()  # before hours of other work
            point = {"ef": 2 * config.k, "recall": 1.0, "standard_error": 0.0, "queries": len(queries)}
            choice, built = EfChoice(2 * config.k, True, [point]), 0.0
            why = "Milvus compares all items, as configured."
        else:
            with console.status("a collection in Milvus, to choose ef"):
                collection = index.collection
            built = time.perf_counter() - begun
            with console.status("ef"):
                choice = _choose(collection, index, queries, config)
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
        chosen = replace(index, parameters=replace(index.parameters, ef_search=choice.ef_search))
        return TunedIndex(chosen, report, _plot(choice, config))

    def publish(self, folder: Path, manifest: Manifest) -> None:
        """As `IndexKind.publish`: the bundle's collection, whole or not at all."""
        write_collection(MilvusServer.from_environment().connect(), folder, manifest)

    def rebuild(
        self, vectors: Vectors, parameters: IndexParameters, score: Score, threads: int
    ) -> TunedMilvus:
        """As `IndexKind.rebuild`; the server decides about threads."""
        return TunedMilvus(vectors, parameters)


def _choose(collection: _Collection, index: TunedMilvus, queries: Vectors, config: IndexConfig) -> EfChoice:
    """The smallest ef that reaches the target, or the widest if none does."""
    curve: list[Point] = []
    k = min(config.k, len(index.vectors))
    for ef in ef_ladder(config.k, len(index.vectors)):
        found = collection.search(queries, k, replace(index.parameters, ef_search=ef))
        each = recalls(found, index.vectors, queries, config.k)
        error = float(each.std() / len(each) ** 0.5)
        curve.append({"ef": ef, "recall": float(each.mean()), "standard_error": error, "queries": len(each)})
        if reaches_target(curve[-1], config.recall_target):
            return EfChoice(ef, True, curve)
        if ef >= len(index.vectors):
            break
    return EfChoice(curve[-1]["ef"], False, curve)


def _plot(choice: EfChoice, config: IndexConfig) -> Figure:
    figure, axes = plt.subplots(figsize=(5.4, 4.0), layout="constrained")
    axes.plot(
        [each["ef"] for each in choice.curve],
        [each["recall"] for each in choice.curve],
        "o-",
        color=MODEL_COLOUR,
    )
    axes.axhline(config.recall_target, linestyle=":", color="grey")
    axes.set(xlabel="ef of the search in Milvus", ylabel=f"recall@{config.k}, validation queries")
    style_axes(axes)
    return figure


KIND = MilvusKind()
