"""The lexical index of a hybrid bundle over given texts, or over the items of a refresh.

A refresh does not have the texts of unchanged items, and does not need them: their weights are taken over.
Those of other items follow from the statistics of the bundle, as the weights of live items do.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from export import ann
from export.evaluation.hybrid_ranking import HybridRanking
from export.hybrid.postings import postings_of
from protos.bundle import Hybrid, Manifest
from protos.hybrid.fusion import Fusion
from protos.hybrid.lexical_index import LexicalIndex, Postings
from protos.hybrid.term_weights import weighting_of
from train.evaluation.lexical_model import CountedTerms, LexicalModel

Rows = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]


def over_texts(hybrid: Hybrid, texts: Iterable[str]) -> tuple[Postings, Hybrid]:
    """The lexical index over texts, by statistics of their own, and the parameters with their mean length."""
    terms = CountedTerms(hybrid.analyzer, texts)
    postings = postings_of(LexicalModel(terms, weighting_of(hybrid)))
    return postings, replace(hybrid, mean_length=terms.mean_length or 1.0)


def ranking_of(
    manifest: Manifest, texts: Sequence[str], items: Vectors, index: ann.SearchIndex
) -> HybridRanking | None:
    """The ranking of a bundle over items with these texts; None if the bundle is not hybrid.

    Args:
        manifest: of the bundle.
        texts: of the N items.
        items: their vectors, float32 (N, D).
        index: over these.
    """
    if manifest.hybrid is None:
        return None
    postings, hybrid = over_texts(manifest.hybrid, texts)
    return HybridRanking(index, items, Fusion(LexicalIndex(postings, hybrid), items))


def weights_of_rows(postings: Postings, rows: Rows) -> Any:
    """The weights of some items, by term: CSR (V, R)."""
    shape = (len(postings.terms), postings.count)
    matrix = scipy.sparse.csr_matrix((postings.weights, postings.documents, postings.starts), shape=shape)
    return matrix.tocsc()[:, rows].tocsr()


def weights_of_texts(index: LexicalIndex, texts: Sequence[str]) -> Any:
    """The weights of items with these texts, by the statistics of an index: CSR (V, T)."""
    found = [index.weights(text) for text in texts]
    lengths = [len(terms) for terms, _ in found]
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    terms = np.concatenate([np.empty(0, np.int32), *(terms for terms, _ in found)])
    weights = np.concatenate([np.empty(0, np.float32), *(weights for _, weights in found)])
    shape = (len(texts), len(index.postings.terms))
    return scipy.sparse.csr_matrix((weights, terms, starts), shape=shape).T.tocsr()


def interleaved(base: Postings, first: Any, second: Any, is_first: npt.NDArray[np.bool_]) -> Postings:
    """An index with the terms of another one over the items of two matrices.

    Args:
        base: has the terms and their idf.
        first, second: CSR (V, A) and (V, B).
        is_first: bool (A + B,): whether item n is the next column of `first`; else it is that of `second`.
    """
    order = np.where(is_first, np.cumsum(is_first) - 1, first.shape[1] + np.cumsum(~is_first) - 1)
    matrix = scipy.sparse.hstack([first, second], format="csc")[:, order].tocsr()
    matrix.sort_indices()
    return Postings(
        base.terms,
        base.idf,
        matrix.indptr.astype(np.int64),
        matrix.indices.astype(np.int32),
        matrix.data.astype(np.float32),
        len(order),
    )
