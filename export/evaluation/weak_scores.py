"""The best score below which an answer is weak, learned on the validation part.

Each validation query is ranked over the items as evaluated, searched exactly, and the score of its best hit
taken (`LexicalIndex.matched_score`). Items that are served with other texts (`catalogue_column`) may score
higher.

`weak_score` is the highest score such that of new queries without a filter that are answered right within
the first ten, one in `MISTAKEN` is expected below: with n right answers, the score of rank
(n + 1) / `MISTAKEN` from below, as in split conformal prediction (Papadopoulos et al. 2002). With fewer than
99 it is the lowest score, below which 1 / (n + 1) are expected.

The report also has the share of wrong answers below, and what share of the answers below is right. No choice
is made by these.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from twinspire.export import ann
from twinspire.export.evaluation.quality import FIRST, Rows, ServedModel, Vectors, query_texts
from twinspire.protos.bundle import Score
from twinspire.protos.hybrid.fusion import FusionQuery
from twinspire.protos.nearest.scores import SCORE_TOLERANCE
from twinspire.train.data.training_data import TrainingData, has_text

LARGEST = 2_000  # validation queries that are read
LEAST_RIGHT = 20  # answers
MISTAKEN = 100  # right answers, of which one may be called weak


def learn(data: TrainingData, model: ServedModel, queries: Vectors, score: Score) -> dict[str, Any]:
    """`score_reference` and `weak_score` of the manifest, and what is below; or `why` one is missing.

    Args:
        model: with the evaluated items.
        queries: vectors of the validation queries, (Q, D), in the order of `by_query`.
    """
    if why := _inapplicable(data, model, score):
        return {"why": why}
    rows, relevant = data.parts["validation"].by_query()
    drawn = np.random.default_rng(0).permutation(len(rows))[:LARGEST]
    texts = query_texts(data, model.inputs, rows[drawn])
    _, best, found = best_answers(model, queries[drawn], texts, data.seen(rows[drawn]))
    is_right = np.array([np.isin(relevant[n], each).any() for n, each in zip(drawn, found, strict=True)])
    right = np.sort(best[is_right])
    report = {"score_reference": float(np.median(best)), "queries": len(drawn), "right": len(right)}
    if len(right) < LEAST_RIGHT:
        return {**report, "why": f"{len(right)} right answers on validation, expected {LEAST_RIGHT} or more"}
    weak = float(right[max(1, (len(right) + 1) // MISTAKEN) - 1]) - SCORE_TOLERANCE
    is_weak = best < weak
    shares = {"weak_of_wrong": _share(is_weak[~is_right]), "right_of_weak": _share(is_right[is_weak])}
    return {**report, "weak_score": weak, **shares}


def _share(which: npt.NDArray[np.bool_]) -> float | None:
    """The share that is true; None of no answers."""
    return float(which.mean()) if len(which) else None


def _inapplicable(data: TrainingData, model: ServedModel, score: Score) -> str:
    """Why the scores of a model say nothing; empty if they do."""
    if data.histories is not None or not has_text(model.inputs.features):
        return "queries do not need a text"
    if score.kind != "cosine":
        return f"scores are of the kind {score.kind}, not cosines"
    if data.before_refit is not None:
        return "the towers have learned the validation queries (training.refit)"
    return ""


def best_answers(
    model: ServedModel, queries: Vectors, texts: Sequence[str], seen: Sequence[Rows]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], Rows]:
    """What exact search, or the hybrid over it, finds first for some queries.

    Args:
        queries: vectors (Q, D), or (Q, K * D).
        texts: of these queries, as far as the tower reads them.
        seen: rows of the items that each answer leaves out; a hybrid leaves out none.

    Returns:
        The best scores (Q,), before a sigmoid; these as `LexicalIndex.matched_score` has them (Q,); and the
        rows of the first ten hits, (Q, min(10, N)), -1 where there are no more.
    """
    rows = ann.exact(queries, model.items, FIRST, seen)
    vectors = queries.reshape(len(queries), -1, model.items.shape[1])
    best = np.einsum("qkd,qd->qk", vectors, model.items[rows[:, 0]]).max(axis=1).astype(np.float64)
    matched = best.copy()
    if model.hybrid is None:
        return best, matched, rows
    fusion, candidates = model.hybrid.fusion, model.hybrid.candidates(queries, FIRST)
    for n, (query, text, near) in enumerate(zip(queries, texts, candidates, strict=True)):
        terms, unknown = fusion.index.counted_terms(text)
        lexical = 0.0
        if terms:  # else it is answered by the vectors alone
            found, (best[n], *_), _, (lexical, *_), _ = fusion.rank(FusionQuery(terms, query, *near), FIRST)
            rows[n, : len(found)] = found
        matched[n] = fusion.index.matched_score(best[n], lexical, terms, unknown)
    return best, matched, rows
