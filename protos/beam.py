"""How far a search in the graph has to look; the service searches so, and the evaluation measures it so."""

EXACT_SHARE = 8  # from an eighth of the catalogue on, comparing with all of it is as fast as the graph


def graph_width(k: int, ef_search: int, count: int) -> int | None:
    """How many items to ask the graph for, to have its best `k`: its beam is at least twice as wide as k.

    hnswlib searches with the larger of ef and k, so asking for more, and keeping the best, widens the beam
    of one call alone; setting ef would change that of every other thread.

    Args:
        k: items wanted, excluded ones among them.
        ef_search: of the bundle.
        count: N, items in the graph.

    Returns:
        the number, or None where comparing with every item is as fast and misses nothing.
    """
    k = min(k, count)
    width = k if 2 * k <= ef_search else min(2 * k, count)
    return None if width * EXACT_SHARE >= count else width
