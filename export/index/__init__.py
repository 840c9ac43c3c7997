"""From item vectors to what finds them: a graph, its width, or exact search, chosen by measurement.

graph.py      vectors -> HNSW graph, and its parameters in a manifest
copies.py     vectors that many items share
search.py     exact, approximate and served answers, and recall
clock.py      the time of a query, in short turns
width.py      ef_search for a target or a budget
sweep.py      M and ef_construction on a sample; growth.py carries costs on to the whole
rivals.py     exact search against the graph
making.py     all of it together; account.py says why, plots.py shows it
"""

from export.index.graph import COSINE, SPACE, Rows, Vectors, build, build_as, parameters, save
from export.index.growth import cost_at
from export.index.making import Made, make, recall_as_served
from export.index.plots import frontier
from export.index.search import approximate, exact, recalls, served
from export.index.sweep import GRID
from export.index.width import EF_LADDER, SPARE, Tuned, afford, enough, tune

__all__ = [
    "COSINE",
    "EF_LADDER",
    "GRID",
    "SPACE",
    "SPARE",
    "Made",
    "Rows",
    "Tuned",
    "Vectors",
    "afford",
    "approximate",
    "build",
    "build_as",
    "cost_at",
    "enough",
    "exact",
    "frontier",
    "make",
    "parameters",
    "recall_as_served",
    "recalls",
    "save",
    "served",
    "tune",
]
