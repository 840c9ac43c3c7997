"""VSKNN (Ludewig and Jannach 2018): nearest neighbours of the query's history.

A neighbour is a training history: of a user, or of a session where the split is by session and validation
prefers that. Its similarity is the cosine with the query's history, whose events weigh less with each later
step. An item's score is the sum over the neighbours that hold it of similarity x weight of the most recent
event that neighbour and query have in common. Where users are the neighbours, the user's own history is none;
where sessions are, the user's earlier sessions may be.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch

from train.data.training_data import TrainingData
from train.evaluation.ranking import (
    DECAYS,
    Baseline,
    FittedBaseline,
    Fitting,
    Floats,
    Rows,
    Scorer,
    has_histories,
    rank_by,
)
from train.models.collaborative import history_matrix

LARGEST = 20_000  # histories that can be neighbours: the latest by time; without times, the last of the pairs
TUNED_QUERIES = 1_000
NEIGHBOURS = (6, 12, 25, 50, 100, 200, 400, 800)
_BLOCK = 128  # queries at a time


@dataclass(frozen=True)
class Settings:
    """What is chosen on validation.

    Args:
        neighbours_are: users or sessions.
        neighbours: their number.
        decay: factor on an event for each later step.
    """

    neighbours_are: Literal["users", "sessions"] = "users"
    neighbours: int = 100
    decay: float = 0.9


@dataclass(frozen=True)
class Stored:
    """Histories that can be neighbours.

    Args:
        matrix: (M, N): 1 for the items of each history.
        user: int64 (M,), where the events of its user begin.
    """

    matrix: scipy.sparse.csr_matrix
    user: npt.NDArray[np.int64]


def stored(data: TrainingData, of: str) -> Stored:
    """The latest training histories of users or of sessions."""
    pairs = data.parts["train"].positive()
    histories = data.histories
    assert histories is not None
    user = histories.begin[pairs.query]
    end = histories.end[pairs.query] if of == "sessions" else np.zeros_like(user)
    rows, row = np.unique(np.stack([user, end]), axis=1, return_inverse=True)
    last = np.zeros(rows.shape[1], np.int64)
    place = np.arange(len(pairs)) if pairs.time is None else np.argsort(np.argsort(pairs.time, kind="stable"))
    np.maximum.at(last, row.ravel(), place)
    kept = np.sort(np.argsort(last)[-LARGEST:])
    ones = np.ones(len(pairs), np.float32)
    matrix = scipy.sparse.csr_matrix((ones, (row.ravel(), pairs.item)), shape=(len(last), data.item_count))
    matrix.data[:] = 1  # repeated interactions count once
    return Stored(matrix[kept], rows[0, kept])


def scorer(data: TrainingData, neighbours_of: Stored, settings: Settings) -> Scorer:
    """Scores of all items for some queries."""
    histories = data.histories
    assert histories is not None
    sizes = np.diff(neighbours_of.matrix.indptr)
    transposed = neighbours_of.matrix.multiply(1 / np.sqrt(np.maximum(sizes, 1))[:, None]).T.tocsr()
    count = min(settings.neighbours, len(sizes))

    def score_block(rows: Rows) -> Floats:
        weights = history_matrix(data, rows, settings.decay)
        norms = np.sqrt(np.asarray(weights.multiply(weights).sum(axis=1)))
        similar = (weights @ transposed).toarray() / np.maximum(norms, 1e-9)  # (B, M)
        if settings.neighbours_are == "users":
            similar[neighbours_of.user == histories.begin[rows][:, None]] = 0
        best = torch.topk(torch.from_numpy(similar.astype(np.float32)), count, dim=1)
        found = neighbours_of.matrix[best.indices.numpy().ravel()]  # (B K, N)
        query = np.repeat(np.arange(len(rows)), count)
        events = np.repeat(query, np.diff(found.indptr))
        shared = weights.toarray()[events, found.indices]
        filled = np.append(shared, np.float32(0))  # `reduceat` needs an element after an empty last row
        recent = np.maximum.reduceat(filled, found.indptr[:-1]) if len(query) else filled[:0]
        recent[np.diff(found.indptr) == 0] = 0
        strength = scipy.sparse.csr_matrix(
            (best.values.numpy().ravel() * recent, (query, np.arange(len(query)))), (len(rows), len(query))
        )
        return np.asarray((strength @ found).toarray(), np.float32)

    def score(rows: Rows) -> Floats:
        blocks = [score_block(rows[at : at + _BLOCK]) for at in range(0, len(rows), _BLOCK)]
        return np.concatenate(blocks) if blocks else np.zeros((0, data.item_count), np.float32)

    return score


def _fit(fitting: Fitting) -> FittedBaseline:
    data, settings = fitting.data, fitting.choose("VSKNN", Settings, _choose)
    named = {
        "neighbours_are": settings.neighbours_are,
        "neighbours": settings.neighbours,
        "decay": settings.decay,
    }
    return FittedBaseline(rank_by(data, scorer(data, stored(data, settings.neighbours_are), settings)), named)


def _choose(fitting: Fitting) -> Settings:
    tuning = fitting.tuning(queries=TUNED_QUERIES)
    data, whole = tuning.data, fitting.data.histories
    assert whole is not None
    choices = {"users": stored(data, "users")}
    if whole.steps is not None:  # while tuning, events may have steps without being in sessions
        choices["sessions"] = stored(data, "sessions")

    def scored(settings: Settings) -> Scorer:
        return scorer(data, choices[settings.neighbours_are], settings)

    ranges = [("neighbours_are", [*choices]), ("decay", DECAYS), ("neighbours", NEIGHBOURS)]
    return tuning.search(Settings(), ranges, scored)


BASELINE = Baseline("vsknn", "VSKNN", has_histories, _fit, "histories")
