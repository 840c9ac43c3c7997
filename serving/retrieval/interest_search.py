"""Search for queries of several vectors: each vector is searched, and the results become one answer."""

from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np

from twinspire.protos.bundle import Manifest
from twinspire.protos.nearest.search import each_vector, merge
from twinspire.serving.retrieval.query import EncodedQueries, SearchOptions, SearchResult
from twinspire.serving.segments.searcher import Searcher

Find = Callable[[EncodedQueries, Sequence[SearchOptions]], list[SearchResult]]


def find_interests(
    find: Find,
    searcher: Searcher,
    manifest: Manifest,
    encoded: EncodedQueries,
    options: Sequence[SearchOptions],
) -> list[SearchResult]:
    """For each query the rows of its best items, by the largest score of its vectors, with the first's plan.

    An item as a query is searched by its one vector. A query that needs no search, such as one on the basis
    POPULAR, is passed to `find` once.

    Args:
        find: searches for queries of one vector, among the items that their options allow.
        searcher: of the items that it finds.
        encoded: queries of K vectors each, (B, K * D).
    """
    most = manifest.interests
    counts = [
        most if context.own_row is None and context.basis.is_searched and each.k else 1
        for context, each in zip(encoded.contexts, options, strict=True)
    ]
    queries = [n for n, count in enumerate(counts) for _ in range(count)]
    places = [n * most + m for n, count in enumerate(counts) for m in range(count)]
    alone = EncodedQueries(
        each_vector(encoded.vectors, manifest.dimension)[places],
        tuple([encoded.contexts[n] for n in queries]),
        encoded.encode_us,
    )
    found = iter(find(alone, [options[n] for n in queries]))
    results = []
    for vector, count, each in zip(encoded.vectors, counts, options, strict=True):
        result, *others = islice(found, count)
        rows = np.array([*result.rows, *(row for other in others for row in other.rows)], np.int64)
        if others and len(rows):
            # Scores are computed again: a graph may find an item only for a vector that is not the nearest.
            rows, products = merge(rows, searcher.vectors, vector, each.k)
            result = result._replace(rows=rows.tolist(), scores=products.tolist())
        results.append(result)
    return results
