"""The prior of the items that were clicked after the same query, for queries that come again.

An item's prior is c / (n + DOUBT), with c of the n clicks after the query in the training part. Queries are
the same if their words are (`query_key`, which the service computes, too).

The prior's weight in the score is the lowest of those within a standard error of the best on validation. It
is 0, and no prior is stored, unless the prior makes nDCG@10 better and no main metric worse, both beyond
chance, where each query is ranked by the weight that others choose (`cross_validated`). nDCG@10 decides,
because a prior mostly moves items that the towers have found. The weight of a lexical model is
cross-validated in the same way.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import scipy.sparse

from twinspire.export.encoding.records import rows_of
from twinspire.protos.bundle import Hybrid
from twinspire.protos.hybrid.lexical_index import term_hash, whole_query
from twinspire.protos.inputs.query_words import query_key
from twinspire.train.config import Experiment
from twinspire.train.data.training_data import TrainingData, texts_of
from twinspire.train.evaluation.intervals import Clusters, interval, within_standard_error
from twinspire.train.metrics import metric_label

T = TypeVar("T")
Values = npt.NDArray[np.float64]
Metrics = Mapping[str, Values]  # name -> value of each query
FOLDS = 10
WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)
ORDER = "ndcg_at_10"
# Clicks on no item that each query has beside its own, so that a single click is not certain. From 1 to 10 it
# hardly matters: on a made shop the best weight has nDCG@10 of .747 to .749 on validation.
DOUBT = 2.0
MOST_ITEMS = 100  # of a query: those with most clicks; the prior of any other is below .01


class Priors(NamedTuple):
    """Q queries and the priors of N items.

    Args:
        terms: uint64 (Q,), ascending: hashes of the queries.
        matrix: CSR (Q, N), priors above 0 and below 1.
    """

    terms: npt.NDArray[np.uint64]
    matrix: Any


class PriorChoice(NamedTuple):
    """A hybrid with the weight that its prior gets; its metrics on validation, and what was measured."""

    hybrid: Hybrid
    metrics: Metrics
    report: dict[str, Any]


def choose_prior(
    hybrid: Hybrid,
    measure: Callable[[Hybrid], Metrics],
    compared: Sequence[str],
    clusters: Clusters,
) -> PriorChoice:
    """The lowest weight of a prior within a standard error of the best; 0 if it does not help beyond chance.

    Args:
        hybrid: without a prior.
        measure: the metrics of each query by a hybrid.
        compared: metrics that must not be worse.
        clusters: of the queries.
    """
    measured = {weight: measure(replace(hybrid, prior_weight=weight)) for weight in WEIGHTS}
    curve = {weight: found[ORDER] for weight, found in measured.items()}
    best = _lowest(curve, clusters)
    held_out = cross_validated(measured, ORDER, clusters, _lowest)
    found = {name: interval(held_out[name], clusters, measured[0.0][name]) for name in compared}
    helps = found[ORDER].low > 0 and all(each.high >= 0 for each in found.values())
    best = best if helps else 0.0
    report = {
        "prior_weight": best,
        "prior_why": f"{metric_label(ORDER)} {found[ORDER].text(clusters)} on validation against no prior",
        "prior_differences": {name: asdict(each) for name, each in found.items()},
        "prior_weights": {f"{weight:g}": float(values.mean()) for weight, values in curve.items()},
    }
    metrics = held_out if helps else measured[0.0]
    return PriorChoice(replace(hybrid, prior_weight=best), metrics, report)


def _lowest(curve: Mapping[float, Values], clusters: Clusters) -> float:
    """Of the weights that are within a standard error of the best, the lowest."""
    return min(within_standard_error(curve, clusters))


def priors_of(experiment: Experiment, data: TrainingData) -> Priors:
    """The priors by the positive pairs of the training part."""
    pairs = data.parts["train"].positive()
    rows, places = np.unique(pairs.query, return_inverse=True)
    asked = rows_of(data.queries, rows)
    keys = [query_key(text) for text in texts_of(asked, experiment.query, cut=True)]
    has_words = np.array([bool(key) for key in keys], bool)[places]  # a blank query equals no other
    pairs, places = pairs.where(has_words), places[has_words]
    hashes = np.fromiter(map(term_hash, map(whole_query, keys)), np.uint64)
    terms, numbers = np.unique(hashes, return_inverse=True)
    where = (numbers[places], pairs.item)
    shape = (len(terms), data.item_count)
    clicks = scipy.sparse.csr_matrix((pairs.weight.astype(np.float64), where), shape)  # sums equal pairs
    clicks.data /= np.repeat(clicks.sum(1).A1 + DOUBT, np.diff(clicks.indptr))
    return Priors(terms, _largest(clicks))


def _largest(matrix: Any) -> Any:
    """The matrix with the `MOST_ITEMS` largest values of each row; zeros are left out."""
    lengths = np.diff(matrix.indptr)
    row = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((matrix.indices, -matrix.data, row))
    rank = np.arange(len(order)) - np.repeat(matrix.indptr[:-1], lengths)
    matrix.data[order[rank >= MOST_ITEMS]] = 0
    matrix.eliminate_zeros()
    return matrix


def cross_validated(
    measured: Mapping[T, Metrics],
    metric: str,
    clusters: Clusters,
    preferred: Callable[[Mapping[T, Values], Clusters], T],
) -> Metrics:
    """The metrics of each query by the setting that the clusters outside of its fold prefer.

    So they say what a choice that is made on queries is worth on others.

    Args:
        measured: setting -> metrics.
        metric: that is given to `preferred`.
        clusters: of the queries.
        preferred: chooses a setting by a metric of each query, and their clusters.
    """
    fold_of = np.random.default_rng(0).permutation(len(clusters))[clusters.of] % FOLDS
    found = {name: np.empty_like(values) for name, values in next(iter(measured.values())).items()}
    for fold in np.unique(fold_of):
        rest, own = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
        curve = {setting: each[metric][rest] for setting, each in measured.items()}
        setting = preferred(curve, clusters[rest])
        for name, values in found.items():
            values[own] = measured[setting][name][own]
    return found
