"""The lexical index of a bundle, from a lexical model over the texts of its items, and the clicks on them.

It is made of given texts, or for the items of a refresh. Priors belong to ids: an item whose text has changed
keeps them, and a deleted item loses them. A refresh does not have the texts of unchanged items, and does not
need them: their weights are taken over. Those of other items follow from the statistics of the bundle, as the
weights of live items do.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from twinspire.export.evaluation.hybrid_ranking import HybridRanking
from twinspire.export.hybrid.priors import Priors
from twinspire.protos.bundle import ITEMS, Hybrid, Manifest
from twinspire.protos.documents import parse_json
from twinspire.protos.errors import DataError
from twinspire.protos.hybrid.fusion import Fusion
from twinspire.protos.hybrid.lexical_index import LexicalIndex, Postings, term_hash
from twinspire.protos.hybrid.term_weights import weighting_of
from twinspire.train.evaluation.lexical_model import CountedTerms, LexicalModel

Rows = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]


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


def over_texts(hybrid: Hybrid, texts: Iterable[str]) -> tuple[Postings, Hybrid]:
    """The lexical index over texts, by statistics of their own, and the parameters with their mean length."""
    terms = CountedTerms(hybrid.analyzer, texts)
    postings = postings_of(LexicalModel(terms, weighting_of(hybrid)))
    if hybrid.prior_weight and not hybrid.weight:
        postings = without_words(postings)
    return postings, replace(hybrid, mean_length=terms.mean_length or 1.0)


def ranking_of(
    folder: Path,
    manifest: Manifest,
    texts: Sequence[str],
    ids: Sequence[str],
    items: Vectors,
) -> HybridRanking | None:
    """The ranking of a bundle over items with these texts; None if the bundle is not hybrid.

    Args:
        folder, manifest: of the bundle.
        texts, ids: of the N items.
        items: their vectors, float32 (N, D).
    """
    if manifest.hybrid is None:
        return None
    postings, hybrid = over_texts(manifest.hybrid, texts)
    if hybrid.prior_weight:
        own = Postings.read(folder, manifest.count)
        is_whole = own.idf == 0
        rows = rows_of(parse_json((folder / ITEMS).read_bytes())["ids"], ids)
        postings = with_priors(postings, Priors(own.terms[is_whole], weights_of_rows(own, rows)[is_whole]))
    return HybridRanking(items, Fusion(LexicalIndex(postings, hybrid), items))


def rows_of(ids: Sequence[str], wanted: Sequence[str]) -> Rows:
    """The places of ids, -1 of those that are not there."""
    places = {item_id: place for place, item_id in enumerate(ids)}
    return np.array([places.get(item_id, -1) for item_id in wanted], np.int64)


def weights_of_rows(postings: Postings, rows: Rows) -> Any:
    """The weights of some items, by term: CSR (V, R); none of row -1."""
    matrix = as_matrix(postings)
    nothing = scipy.sparse.csr_matrix((matrix.shape[0], 1), dtype=np.float32)
    return scipy.sparse.hstack([matrix, nothing], format="csc")[:, rows].tocsr()


def weights_of_texts(index: LexicalIndex, texts: Sequence[str], rows: Rows) -> Any:
    """The weights of items with these texts, by the statistics of an index: CSR (V, T).

    Args:
        rows: of the same items in the index, whose priors they keep; -1 where it lacks them.
    """
    found = [index.weights(text) for text in texts]
    lengths = [len(terms) for terms, _ in found]
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    terms = np.concatenate([np.empty(0, np.int32), *(terms for terms, _ in found)])
    weights = np.concatenate([np.empty(0, np.float32), *(weights for _, weights in found)])
    shape = (len(texts), len(index.postings.terms))
    words = scipy.sparse.csr_matrix((weights, terms, starts), shape=shape).T.tocsr()
    is_whole = scipy.sparse.diags((index.postings.idf == 0).astype(np.float32))
    return words + is_whole @ weights_of_rows(index.postings, rows)


def interleaved(base: Postings, first: Any, second: Any, is_first: npt.NDArray[np.bool_]) -> Postings:
    """An index with the terms of another one over the items of two matrices.

    Args:
        base: has the terms and their idf.
        first, second: CSR (V, A) and (V, B).
        is_first: bool (A + B,): whether item n is the next column of `first`; else it is that of `second`.
    """
    order = np.where(is_first, np.cumsum(is_first) - 1, first.shape[1] + np.cumsum(~is_first) - 1)
    matrix = scipy.sparse.hstack([first, second], format="csc")[:, order].tocsr()
    return as_postings(base.terms, base.idf, matrix)
