"""The lexical index of a bundle, from BM25 over the texts of its items."""

import numpy as np

from protos.errors import DataError
from protos.hybrid.lexical_index import Postings, term_hash
from train.evaluation.bm25 import Bm25


def postings_of(model: Bm25) -> Postings:
    """The weights of a model, by term.

    Raises:
        DataError: two terms have the same hash, so that the service could not tell them apart.
    """
    weights = model.weights.sorted_indices()
    hashes = np.fromiter(map(term_hash, model.tokens), np.uint64, weights.shape[0])
    order = np.argsort(hashes)
    terms = hashes[order]
    same = np.flatnonzero(terms[1:] == terms[:-1])
    if len(same):
        pair = [model.tokens[order[place]] for place in (same[0], same[0] + 1)]
        raise DataError(f"the words {pair[0]!r} and {pair[1]!r} have the same hash of 64 bits: leave one out")
    ordered = weights[order]
    return Postings(
        terms,
        model.idf[order].astype(np.float32),
        ordered.indptr.astype(np.int64),
        ordered.indices.astype(np.int32),
        ordered.data.astype(np.float32),
        int(weights.shape[1]),
    )
