"""Quality as it is served: the test split through the ONNX towers and an HNSW index.

Beside it stand exact search over the same vectors, which tells what the index costs, and the baselines on
the same split, which tell what the model is worth.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import hnswlib
import numpy as np
import numpy.typing as npt
from rich.console import Console

from export import index
from export.backends import Encode
from export.catalogue import encode_all
from protos.bundle import IndexParameters, Score
from protos.features import TowerInputs
from train.baselines import LABELS, baselines
from train.config import Experiment
from train.figures import cold_figures, figures, label_figures
from train.metrics import CUTOFFS, mean, per_query
from train.plots import spelt
from train.problem import Pairs, Problem

Rows = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
K = max(CUTOFFS)
FIRST = 10  # items in a request, as most are


@dataclass(frozen=True)
class Searched:
    """A model as it is served: the query tower, the vectors of all items, and how they are searched."""

    query: Encode
    inputs: TowerInputs
    items: Vectors
    graph: hnswlib.Index
    parameters: IndexParameters


def encode_queries(
    encode: Encode, inputs: TowerInputs, problem: Problem, rows: Rows, console: Console, title: str
) -> Vectors:
    """Vectors (Q, D) of some queries of a problem."""
    values = {name: [column[row] for row in rows] for name, column in problem.queries.items()}
    return encode_all(encode, inputs, values, console, title)


def ranked(problem: Problem, model: Searched, console: Console) -> Rows:
    """What the served pipeline answers to each query of the test part: (Q, K) item rows, best first."""
    rows, _ = problem.parts["test"].by_query()
    return _served(problem, model, rows, console)


def evaluate(
    experiment: Experiment,
    problem: Problem,
    model: Searched,
    score: Score,
    console: Console,
    answers: Rows | None = None,
) -> dict[str, Any]:
    """Metrics of the served pipeline on the test part; `exact_` and baselines' names come before others'.

    Args:
        answers: what `ranked` gave for this model, where that is known already.
    """

    def vectors(rows: Rows) -> Vectors:
        return encode_queries(model.query, model.inputs, problem, rows, console, "queries")

    def served(rows: Rows) -> Rows:
        if answers is not None and np.array_equal(rows, queries):
            return answers
        return _served(problem, model, rows, console)

    def products(pairs: Pairs) -> Vectors:
        distinct, query = np.unique(pairs.query, return_inverse=True)
        return np.asarray((vectors(distinct)[query] * model.items[pairs.item]).sum(axis=1))

    queries, relevant = problem.parts["test"].by_query()
    searched = index.exact(vectors(queries), model.items, K, problem.seen(queries))
    metrics: dict[str, Any] = dict(figures(problem, "test", served, baselines(experiment, problem)))
    metrics |= {f"exact_{k}": v for k, v in mean(per_query(searched, relevant)).items()}
    metrics |= cold_figures(problem, served)
    metrics |= label_figures(problem, "test", products, score)
    return metrics | {"queries": len(queries), "verdict": verdict(metrics, experiment.training.selection)}


def _served(problem: Problem, model: Searched, rows: Rows, console: Console) -> Rows:
    asked = encode_queries(model.query, model.inputs, problem, rows, console, "queries")
    seen = problem.seen(rows)
    own = model.parameters

    def found(k: int) -> Rows:
        return index.served(model.graph, asked, model.items, k, own.ef_search, seen, own.exact)

    return continued(found(FIRST), found(K))


def continued(first: Rows, more: Rows) -> Rows:
    """The answers to a request for a few items, then the others of a request for many.

    A search for many looks farther, so its first few are better than what a request for a few is given.
    """
    found = np.full_like(more, -1)
    found[:, : first.shape[1]] = first
    for row, head, tail in zip(found, first, more, strict=True):
        rest = tail[~np.isin(tail, head)][: len(row) - len(head)]
        row[len(head) : len(head) + len(rest)] = rest
    return found


def verdict(metrics: Mapping[str, Any], metric: str) -> str:
    """Who wins, in a sentence: the model or the best of the baselines.

    Args:
        metric: that decides; nDCG@10 where the test part does not have it, as with AUC without negatives.
    """
    metric = metric if metric in metrics else "ndcg_at_10"
    beside = {name: metrics[f"{name}_{metric}"] for name in LABELS if f"{name}_{metric}" in metrics}
    if not beside:
        return f"{spelt(metric)} {metrics[metric]:.3f}, with no baseline to compare it with"
    best = max(beside, key=lambda name: beside[name])
    model, baseline = metrics[metric], beside[best]
    if model >= baseline:
        return f"better than {LABELS[best]} at {spelt(metric)}: {model:.3f} against {baseline:.3f}"
    return f"{LABELS[best]} is better at {spelt(metric)}: {baseline:.3f} against {model:.3f}"
