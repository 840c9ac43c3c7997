"""The lexical index of a bundle, from a lexical model over the texts of its items, and the clicks on them."""

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from twinspire.export.hybrid.priors import Priors
from twinspire.protos.errors import DataError
from twinspire.protos.hybrid.lexical_index import Postings, term_hash
from twinspire.train.evaluation.lexical_model import LexicalModel


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
    return as_postings(terms, model.idf[order], weights[order])


def as_postings(terms: npt.NDArray[np.uint64], idf: npt.NDArray[Any], matrix: Any) -> Postings:
    """Postings from the weights of the terms, CSR (V, N)."""
    matrix.sort_indices()
    return Postings(
        terms,
        idf.astype(np.float32),
        matrix.indptr.astype(np.int64),
        matrix.indices.astype(np.int32),
        matrix.data.astype(np.float32),
        int(matrix.shape[1]),
    )


def as_matrix(postings: Postings) -> Any:
    """The weights of the terms, CSR (V, N)."""
    shape = (len(postings.terms), postings.count)
    return scipy.sparse.csr_matrix((postings.weights, postings.documents, postings.starts), shape=shape)


def without_words(postings: Postings) -> Postings:
    """Postings without terms over the same items, which priors are added to where BM25 has no weight."""
    return as_postings(postings.terms[:0], postings.idf[:0], as_matrix(postings)[:0])


def with_priors(postings: Postings, priors: Priors) -> Postings:
    """The postings of words with `priors` in place of earlier priors; all are over the same items."""
    is_word = postings.idf > 0
    is_new = ~np.isin(priors.terms, postings.terms[is_word])  # a query with the hash of a word has no prior
    terms = np.concatenate([postings.terms[is_word], priors.terms[is_new]])
    idf = np.concatenate([postings.idf[is_word], np.zeros(np.count_nonzero(is_new), np.float32)])
    matrix = scipy.sparse.vstack([as_matrix(postings)[is_word], priors.matrix[is_new]], format="csr")
    order = np.argsort(terms)
    return as_postings(terms[order], idf[order], matrix[order])
