"""The index over the item vectors: HNSW or exact search, chosen by measurement.

index_kind.py  kinds of indexes by name; kinds/ has one module for each
graph.py       vectors -> HNSW graph; duplicates.py handles vectors that many items share
merged.py      the same for queries of several vectors
search.py      exact and approximate search, what the service returns, and recall
timer.py       the time of a search, and exact search against the graph
ef_search.py   the search width for a recall target
tuner.py       all of it together; report.py explains the choice in JSON, words and a plot
"""

from twinspire.export.ann.ef_search import EF_LADDER, MARGIN, EfChoice, reaches_target, tune
from twinspire.export.ann.graph import COSINE, SPACE, Rows, Vectors, build_graph, save
from twinspire.export.ann.index_kind import SearchIndex, TunedIndex, index_kind, mean_recall, rebuild
from twinspire.export.ann.merged import search_merged
from twinspire.export.ann.report import frontier
from twinspire.export.ann.search import approximate, exact, recalls, search_as_served

__all__ = [
    "COSINE",
    "EF_LADDER",
    "MARGIN",
    "SPACE",
    "EfChoice",
    "Rows",
    "SearchIndex",
    "TunedIndex",
    "Vectors",
    "approximate",
    "build_graph",
    "exact",
    "frontier",
    "index_kind",
    "mean_recall",
    "reaches_target",
    "rebuild",
    "recalls",
    "save",
    "search_as_served",
    "search_merged",
    "tune",
]
