"""Search for queries of several vectors, (Q, K * D): one search a vector, merged as the service does."""

from collections.abc import Sequence

import numpy as np

from twinspire.export.ann.graph import Rows, Vectors
from twinspire.export.ann.index_kind import SearchIndex
from twinspire.protos.nearest.search import search_each


def search_merged(
    index: SearchIndex, vectors: Vectors, queries: Vectors, k: int, seen: Sequence[Rows]
) -> Rows:
    """As `SearchIndex.search`, of queries of one vector (Q, D) or of several (Q, K * D).

    Args:
        vectors: (N, D), of the items of the index.
    """
    dimension = vectors.shape[1]
    interests = queries.shape[1] // dimension
    if interests == 1:
        return index.search(queries, k, seen)
    alone = [rows for rows in seen for _ in range(interests)]
    best = search_each(lambda each: index.search(each, k, alone), vectors.__getitem__, queries, dimension, k)
    merged = np.full((len(queries), min(k, len(vectors))), -1, np.int64)
    for row, (found, _) in zip(merged, best, strict=True):
        row[: len(found)] = found
    return merged
