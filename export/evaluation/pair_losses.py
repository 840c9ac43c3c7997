"""The log loss of every labelled test pair, by which gates compare two bundles of click models.

A pair is identified by a digest of its query's values, its item and its label. Pairs that are equal in all of
them are numbered.
"""

import hashlib
import json

import numpy as np
import numpy.typing as npt
import scipy.special

from twinspire.export.evaluation.per_query import Digests, RowMetrics
from twinspire.protos.bundle import Score
from twinspire.train.data.training_data import Pairs, TrainingData
from twinspire.train.evaluation.intervals import pair_clusters_of
from twinspire.train.evaluation.labelled_metrics import pair_losses

LOG_LOSS = "log_loss"


def measure(data: TrainingData, products: npt.NDArray[np.float32] | None, score: Score) -> RowMetrics | None:
    """Compute the loss of each test pair, minus the log probability of its label, in nats.

    Args:
        products: (P,), inner products of the test pairs; None if these do not have both labels.
        score: how an inner product becomes a score.

    Returns:
        None if the pairs do not have both labels, or the scores are no probabilities.
    """
    pairs = data.parts["test"]
    if products is None or score.kind != "sigmoid":
        return None
    predicted = scipy.special.expit(products.astype(np.float64) + score.bias)
    losses = pair_losses(pairs.is_positive, predicted).astype(np.float32)
    digests = _numbered(_digests(data, pairs))
    values = {LOG_LOSS: losses, "is_positive": pairs.is_positive}
    return RowMetrics(digests, values, pair_clusters_of(data, "test")).some(np.argsort(digests))


def base_rate_loss(found: RowMetrics) -> float:
    """The mean loss of a model that predicts the share of positive pairs for each pair."""
    labels = found.metrics["is_positive"]
    return float(pair_losses(labels, np.full(len(labels), labels.mean())).mean())


def _digests(data: TrainingData, pairs: Pairs) -> Digests:
    """(P,): the digest of each pair; equal ones of equal pairs."""
    distinct, of_pair = np.unique(pairs.query, return_inverse=True)
    values = [{name: column[row] for name, column in data.queries.items()} for row in distinct]
    queries = [_hash(json.dumps(each, sort_keys=True, default=str).encode()) for each in values]
    rows = zip(of_pair.tolist(), pairs.item.tolist(), pairs.is_positive.tolist(), strict=True)
    found = [
        _hash(queries[query] + f"{int(is_positive)}{data.item_ids[item]}".encode())
        for query, item, is_positive in rows
    ]
    return np.frombuffer(b"".join(found), "<u8").astype(np.uint64)


def _hash(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=8).digest()


def _numbered(digests: Digests) -> Digests:
    """Distinct digests: the number of a digest's occurrence is added to it."""
    order = np.argsort(digests, kind="stable")
    ordered = digests[order]
    numbers = np.arange(len(ordered)) - np.searchsorted(ordered, ordered)
    found = np.empty_like(digests)
    found[order] = ordered + numbers.astype(np.uint64)
    return found
