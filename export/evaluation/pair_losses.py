"""The log loss of every labelled test pair, stored in the bundle.

Gates compare two bundles of click models pair by pair, as they compare others query by query
(`per_query.py`). A pair is identified by a digest of its query's values, its item and its label. Pairs that
are equal in all of them are numbered. With each pair goes its cluster, such as its user, of which intervals
draw.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.special

from twinspire.export.evaluation.per_query import read_rows, write_rows
from twinspire.protos.bundle import Score
from twinspire.train.data.training_data import Pairs, TrainingData
from twinspire.train.evaluation.intervals import Clusters, pair_clusters_of
from twinspire.train.evaluation.labelled_metrics import pair_losses

FILE = "pair_losses.npz"
PAIRS = "pairs"

Digests = npt.NDArray[np.uint64]
Values = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PairLosses:
    """The log loss of each pair, in the order of the pairs' digests.

    Args:
        pairs: uint64 (P,), distinct digests.
        losses: float32 (P,), minus the log probability of each label, in nats.
        is_positive: bool (P,), the labels.
        clusters: of the pairs.
    """

    pairs: Digests
    losses: Values
    is_positive: npt.NDArray[np.bool_]
    clusters: Clusters

    def of_pairs(self, rows: Rows) -> "PairLosses":
        """The losses of some of the pairs."""
        return PairLosses(self.pairs[rows], self.losses[rows], self.is_positive[rows], self.clusters[rows])

    @property
    def base_rate_loss(self) -> float:
        """The mean loss of a model that predicts the share of positive pairs for each pair."""
        share = np.full(len(self.is_positive), self.is_positive.mean())
        return float(pair_losses(self.is_positive, share).mean())


def measure(data: TrainingData, products: npt.NDArray[np.float32] | None, score: Score) -> PairLosses | None:
    """Compute the loss of each test pair.

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
    found = PairLosses(digests, losses, pairs.is_positive, pair_clusters_of(data, "test"))
    return found.of_pairs(np.argsort(digests, kind="stable"))


def common(one: PairLosses, other: PairLosses) -> tuple[PairLosses, PairLosses]:
    """Both, of the pairs alone that both have."""
    _, *rows = np.intersect1d(one.pairs, other.pairs, assume_unique=True, return_indices=True)
    return one.of_pairs(rows[0]), other.of_pairs(rows[1])


def _digests(data: TrainingData, pairs: Pairs) -> Digests:
    """(P,): the digest of each pair; equal ones of equal pairs."""
    distinct, of_pair = np.unique(pairs.query, return_inverse=True)
    queries = [_hash(json.dumps(_query(data, row), sort_keys=True, default=str).encode()) for row in distinct]
    rows = zip(of_pair.tolist(), pairs.item.tolist(), pairs.is_positive.tolist(), strict=True)
    found = [
        _hash(queries[query] + f"{int(is_positive)}{data.item_ids[item]}".encode())
        for query, item, is_positive in rows
    ]
    return np.frombuffer(b"".join(found), "<u8").astype(np.uint64)


def _query(data: TrainingData, row: int) -> dict[str, Any]:
    return {name: values[row] for name, values in data.queries.items()}


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


def save(found: PairLosses, folder: Path) -> None:
    """Write the losses into the reports of a bundle, without pickle."""
    values = {"losses": found.losses, "is_positive": found.is_positive}
    write_rows(folder, FILE, (PAIRS, found.pairs), values, found.clusters)


def load(folder: Path) -> PairLosses | None:
    """Read the losses from the reports of a bundle; None if it has none.

    Raises:
        BundleDamaged: the file is not what `save` writes.
    """
    kinds = {"losses": np.float32, "is_positive": np.bool_}
    found = read_rows(folder, FILE, "losses of pairs", PAIRS, kinds)
    if found is None:
        return None
    pairs, values, clusters = found
    return PairLosses(pairs, values["losses"], values["is_positive"], clusters)
