"""HNSW graphs, and exact search where it is about as fast as the graph."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from twinspire.export.ann.graph import Rows, Vectors, build_graph, save
from twinspire.export.ann.index_kind import IndexKind, TunedIndex
from twinspire.export.ann.report import frontier
from twinspire.export.ann.search import exact, search_as_served
from twinspire.export.ann.tuner import tune_index
from twinspire.protos.bundle import EXACT, LINKS, IndexParameters, Score
from twinspire.protos.nearest.coded_vectors import CodedVectors
from twinspire.train.config.index import IndexConfig


@dataclass(frozen=True)
class TunedHnsw:
    """A graph over item vectors (N, D); if `parameters.exact`, searches compare with all items instead.

    Args:
        graph: None if it is neither searched nor saved.
    """

    graph: CodedVectors | None
    vectors: Vectors
    parameters: IndexParameters

    def search(self, queries: Vectors, k: int, seen: Sequence[Rows]) -> Rows:
        """As `SearchIndex.search`."""
        if self.graph is None or self.parameters.exact:
            return exact(queries, self.vectors, k, seen)
        return search_as_served(self.graph, queries, k, self.parameters.ef_search, seen)

    def save(self, folder: Path) -> None:
        """Write the graph as `links.npy`, unless every search is exact."""
        if self.graph is not None and not self.parameters.exact:
            save(self.graph, folder / LINKS)


class HnswKind(IndexKind):
    """Implements `IndexKind`."""

    def tune(
        self, vectors: Vectors, queries: Vectors, config: IndexConfig, score: Score, console: Console
    ) -> TunedIndex:
        """Choose ef_search or exact search, as `export.ann.tuner` describes."""
        graph, parameters, report = tune_index(vectors, queries, config, score, console)
        return TunedIndex(TunedHnsw(graph, vectors, parameters), report, frontier(report))

    def rebuild(self, vectors: Vectors, parameters: IndexParameters, score: Score, threads: int) -> TunedHnsw:
        """Build a graph with the same parameters; exact search needs none."""
        if parameters.kind == EXACT:
            return TunedHnsw(None, vectors, parameters)
        return TunedHnsw(build_graph(parameters, vectors, score, threads), vectors, parameters)


KIND = HnswKind()
