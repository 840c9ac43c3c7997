"""Collections on a Milvus server, which the environment names (`protos/vector_databases/milvus.py`).

The collection of a bundle is written when the bundle's hash is known. Before, ef is chosen by searches of a
collection of the vectors alone, which is dropped when its index is no longer needed.
"""

import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
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
    draft,
    fill,
    index_type,
    search_params,
    server_errors,
    write_collection,
)
from twinspire.train.config.index import IndexConfig
from twinspire.train.plots import MODEL_COLOUR, style_axes

QUERIES = 64  # in one search
ROUNDS = 20  # single searches that are timed


@dataclass(frozen=True)
class TunedMilvus:
    """Item vectors (N, D), in a collection of their own as soon as it is searched.

    FLAT compares all items, as `exact` does here, so it needs no collection.
    """

    vectors: Vectors
    parameters: IndexParameters
    has_padding_dim: bool

    @cached_property
    def collection(self) -> "_Collection":
        """A collection of the vectors."""
        return _Collection(self.vectors, self.parameters, self.has_padding_dim)

    def search(self, queries: Vectors, k: int, seen: Sequence[Rows]) -> Rows:
        """As `SearchIndex.search`."""
        count = len(self.vectors)
        longest = max((len(rows) for rows in seen), default=0)
        width = min(k + longest, count)
        if index_type(self.parameters) == FLAT_TYPE or width > MAX_K:
            return exact(queries, self.vectors, k, seen)
        found = self.collection.search(queries, width, self.parameters)
        best = np.full((len(queries), min(k, count)), -1, np.int64)
        for n, (rows, hidden) in enumerate(zip(found, seen, strict=True)):
            kept = rows[~np.isin(rows, hidden)][: best.shape[1]]
            best[n, : len(kept)] = kept
        return best

    def save(self, folder: Path) -> None:
        """Nothing: the bundle holds the vectors, and `publish` writes the collection."""


class _Collection:
    """A draft collection, dropped when this object is no longer needed."""

    def __init__(self, vectors: Vectors, parameters: IndexParameters, has_padding_dim: bool) -> None:
        self._client = MilvusServer.from_environment().connect()
        with draft(self._client, "index") as self.name, server_errors():
            fill(self._client, self.name, vectors, parameters, has_padding_dim)
        weakref.finalize(self, _drop, self._client, self.name)

    def search(self, queries: Vectors, k: int, parameters: IndexParameters) -> list[Rows]:
        """The best `k` of each query (Q, D), best first."""
        found: list[Rows] = []
        params = search_params(parameters, k)
        with server_errors():
            for start in range(0, len(queries), QUERIES):
                hits = self._client.search(
                    self.name,
                    data=[*np.asarray(queries[start : start + QUERIES], np.float32)],
                    limit=k,
                    output_fields=[ID],
                    search_params=params,
                    timeout=WRITE_SECONDS,
                    consistency_level="Bounded",  # `fill` has flushed and loaded what it wrote
                )
                found += [np.array([each[ID] for each in own], np.int64) for own in hits]
        return found


def _drop(client: Any, name: str) -> None:
    with suppress(Exception):  # a draft that stays is dropped by `python -m twinspire.export prune`
        client.drop_collection(name, timeout=CONNECT_SECONDS)


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
        kind = config.options.get("type", HNSW_TYPE)
        widest = IndexParameters(
            "ip",
            config.m,
            config.ef_construction,
            2 * config.k,
            config.seed,
            kind=MILVUS,
            options={"type": kind},
        )
        index, begun = TunedMilvus(vectors, widest, score.has_padding_dim), time.perf_counter()
        if kind == FLAT_TYPE:
            MilvusServer.from_environment().connect().close()  # before hours of other work
            point: Point = {"ef": 2 * config.k, "recall": 1.0, "standard_error": 0.0, "queries": len(queries)}
            return _tuned(index, EfChoice(point["ef"], True, [point]), config, 0.0)
        with console.status("a collection in Milvus, to choose ef"):
            index.collection  # noqa: B018
        built = time.perf_counter() - begun
        curve: list[Point] = []
        chosen = 0
        with console.status("ef"):
            for ef in ef_ladder(config.k, len(vectors)):
                curve.append(_measured(index, replace(widest, ef_search=ef), queries, config))
                if reaches_target(curve[-1], config.recall_target):
                    chosen = ef
                    break
                if ef >= len(vectors):
                    break
        choice = EfChoice(chosen or curve[-1]["ef"], bool(chosen), curve)
        found = TunedMilvus(vectors, replace(widest, ef_search=choice.ef_search), score.has_padding_dim)
        found.__dict__["collection"] = index.collection  # the same vectors
        return _tuned(found, choice, config, built)

    def publish(self, folder: Path, manifest: Manifest) -> None:
        """As `IndexKind.publish`: the bundle's collection, whole or not at all."""
        write_collection(MilvusServer.from_environment().connect(), folder, manifest)

    def rebuild(
        self, vectors: Vectors, parameters: IndexParameters, score: Score, threads: int
    ) -> TunedMilvus:
        """As `IndexKind.rebuild`; the server decides about threads."""
        return TunedMilvus(vectors, parameters, score.has_padding_dim)


def _measured(
    index: TunedMilvus, parameters: IndexParameters, queries: Vectors, config: IndexConfig
) -> Point:
    """Recall@k of one ef, and the time of single searches, the way to the server included."""
    found = index.collection.search(queries, config.k, parameters)
    rows = np.full((len(found), min(config.k, len(index.vectors))), -1, np.int64)
    for n, own in enumerate(found):
        rows[n, : len(own)] = own
    each = recalls(rows, index.vectors, queries, config.k)
    begun = time.perf_counter()
    for n in range(ROUNDS):
        index.collection.search(queries[n % len(queries)][None], config.k, parameters)
    us = (time.perf_counter() - begun) / ROUNDS * 1e6
    return {
        "ef": parameters.ef_search,
        "recall": float(each.mean()),
        "standard_error": float(each.std() / len(each) ** 0.5),
        "queries": len(each),
        "us_per_query": us,
    }


def _tuned(index: TunedMilvus, choice: EfChoice, config: IndexConfig, build_s: float) -> TunedIndex:
    kind = index_type(index.parameters)
    if kind == FLAT_TYPE:
        why = "Milvus compares all items, as configured."
    else:
        reached = "reaches" if choice.reached else "is the widest tried and does not surely reach"
        why = (
            f"Milvus HNSW, M {index.parameters.m} and efConstruction {index.parameters.ef_construction}; ef "
            f"{choice.ef_search} {reached} {config.recall_target}: recall@{config.k} "
            f"{choice.point['recall']:.4f} at {choice.point['us_per_query']:,.0f} us a query, with the way."
        )
    report = {
        "items": len(index.vectors),
        "k": config.k,
        "target": config.recall_target,
        "ef_search": choice.ef_search,
        "reached": choice.reached,
        "build_s": build_s,
        "points": [*choice.curve],
        "why": why,
    }
    return TunedIndex(index, report, _plot(choice, config))


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
