"""The index over the item vectors: HNSW or exact search, chosen by measurement.

index_kind.py  kinds of indexes by name; kinds/ has one module for each
graph.py       vectors -> HNSW graph; duplicates.py handles vectors that many items share
search.py      exact and approximate search, what the service returns, and recall
ef_search.py   the ef_search for a recall target
"""

from twinspire.export.ann.ef_search import EF_LADDER, MARGIN, EfChoice, choose_ef, reaches_target
from twinspire.export.ann.graph import COSINE, SPACE, Rows, Vectors, build_graph, save
from twinspire.export.ann.index_kind import TunedIndex, index_kind, mean_recall, write_index
from twinspire.export.ann.search import approximate, exact, recalls, search_as_served

__all__ = [
    "COSINE",
    "EF_LADDER",
    "MARGIN",
    "SPACE",
    "EfChoice",
    "Rows",
    "TunedIndex",
    "Vectors",
    "approximate",
    "build_graph",
    "choose_ef",
    "exact",
    "index_kind",
    "mean_recall",
    "reaches_target",
    "recalls",
    "save",
    "search_as_served",
    "write_index",
]
