"""The lexical index of a bundle, from a lexical model over the texts of its items."""

import numpy as np

from protos.errors import DataError
from protos.hybrid.lexical_index import Postings, term_hash
from train.evaluation.lexical_model import LexicalModel


def postings_of(model: LexicalModel) -> Postings:
    """The weights of a model, by term.

    Raises:
        DataError: two terms have the same hash, so that the service could not tell them apart.
    """
    weights, tokens = model.weights, model.terms.tokens
    hashes = np.fromiter(map(term_hash, tokens), np.uint64, len(tokens))
    order = np.argsort(hashes)
    terms = hashes[order]
    same = np.flatnonzero(terms[1:] == terms[:-1])
    if len(same):
        pair = [tokens[order[place]] for place in (same[0], same[0] + 1)]
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
