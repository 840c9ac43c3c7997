"""HNSW graphs, and exact search where it is about as fast as the graph."""

from dataclasses import dataclass
from pathlib import Path

from twinspire.export.ann.graph import Rows, Vectors, save
from twinspire.export.ann.index_kind import IndexKind, TunedIndex
from twinspire.export.ann.search import exact, search_as_served
from twinspire.export.ann.tuner import tune_index
from twinspire.protos.bundle import LINKS, IndexParameters, Score
from twinspire.protos.nearest.coded_vectors import CodedVectors
from twinspire.train.config.index import IndexConfig


@dataclass(frozen=True)
class TunedHnsw:
    """A graph over item vectors (N, D); None where every search compares all of them."""

    graph: CodedVectors | None
    vectors: Vectors
    parameters: IndexParameters

    def search(self, queries: Vectors, k: int) -> Rows:
        """As `SearchIndex.search`."""
        if self.graph is None:
            return exact(queries, self.vectors, k)
        return search_as_served(self.graph, queries, k, self.parameters.ef_search)

    def save(self, folder: Path) -> None:
        """Write the graph as `links.npy`, if there is one."""
        if self.graph is not None:
            save(self.graph, folder / LINKS)


class HnswKind(IndexKind):
    """Implements `IndexKind`."""

    def tune(self, vectors: Vectors, queries: Vectors, config: IndexConfig, score: Score) -> TunedIndex:
        """Choose ef_search or exact search, as `export.ann.tuner` describes."""
        graph, parameters, report = tune_index(vectors, queries, config, score)
        return TunedIndex(TunedHnsw(graph, vectors, parameters), report)


KIND = HnswKind()
