"""How the items that pass a filter were searched."""

from enum import StrEnum


class Plan(StrEnum):
    """The plan that an answer was found by.

    UNFILTERED: the request has no filter. EMPTY: nothing was searched, because no item passes or the basis is
    BASIS_NONE. EXACT: all items that pass were compared with the query. GRAPH: the index was searched, wider
    until enough of the items found pass. GRAPH_THEN_EXACT: as GRAPH, but too few of the items found pass; so
    all that pass were compared. POPULAR: the most popular items that pass; the basis is BASIS_POPULAR.
    UNKNOWN: one that a newer server names, and this client does not know.
    """

    UNFILTERED = "unfiltered"
    EMPTY = "empty"
    EXACT = "exact"
    GRAPH = "graph"
    GRAPH_THEN_EXACT = "graph_then_exact"
    POPULAR = "popular"
    UNKNOWN = "unknown"
