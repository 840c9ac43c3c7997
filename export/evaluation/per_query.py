"""Metrics of every test query, or of every labelled test pair, stored in the bundle.

Gates compare two bundles row by row, for which means are not enough. A query is identified by a digest of its
values and of its relevant items, so two files are compared only on the rows that both have. With each row
goes its cluster (`train/evaluation/intervals.py`), of which intervals draw.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from twinspire.protos import bundle
from twinspire.protos.errors import BundleDamaged
from twinspire.train.data.training_data import TrainingData
from twinspire.train.evaluation.intervals import Clusters, clusters_of
from twinspire.train.metrics import per_query

Digests = npt.NDArray[np.uint64]


class RowFile(NamedTuple):
    """A file of metrics: its name in the reports of a bundle, what its rows are, and what it holds."""

    name: str
    rows: str
    content: str


QUERIES = RowFile("per_query.npz", "queries", "metrics of single queries")
PAIRS = RowFile("pair_losses.npz", "pairs", "log loss of single pairs")


@dataclass(frozen=True)
class RowMetrics:
    """The metrics of each query, or of each pair, in the order of their digests.

    Args:
        rows: uint64 (R,), digests.
        metrics: metric name -> float32 (R,); of pairs also `is_positive`, bool (R,).
        clusters: of the rows.
    """

    rows: Digests
    metrics: dict[str, npt.NDArray[Any]]
    clusters: Clusters

    def some(self, rows: npt.NDArray[np.int64]) -> "RowMetrics":
        """The metrics of some of the rows."""
        metrics = {name: values[rows] for name, values in self.metrics.items()}
        return RowMetrics(self.rows[rows], metrics, self.clusters[rows])

    def means(self) -> dict[str, float]:
        """The means of the metrics that are a number for every row."""
        numbers = {name: values for name, values in self.metrics.items() if values.dtype.kind == "f"}
        finite = {name: values for name, values in numbers.items() if np.isfinite(values).all()}
        return {name: float(values.mean(dtype=np.float64)) for name, values in finite.items() if len(values)}


def measure(data: TrainingData, ranked: npt.NDArray[np.int64]) -> RowMetrics:
    """Compute the metrics of each test query.

    Args:
        ranked: (Q, K) item rows for each test query, best first; -1 where there are no more.
    """
    rows, relevant = data.parts["test"].by_query()
    digests = np.array([digest(data, *each) for each in zip(rows.tolist(), relevant, strict=True)], np.uint64)
    order = np.argsort(digests, kind="stable")
    found = per_query(ranked, relevant)
    values = {name: each.astype(np.float32) for name, each in found.items()}
    return RowMetrics(digests, values, clusters_of(data, "test")).some(order)


def common(one: RowMetrics, other: RowMetrics) -> tuple[RowMetrics, RowMetrics]:
    """Both, restricted to the rows that both have."""
    _, *rows = np.intersect1d(one.rows, other.rows, return_indices=True)
    return one.some(rows[0]), other.some(rows[1])


def digest(data: TrainingData, row: int, relevant: npt.NDArray[np.int64]) -> int:
    """The digest of a query.

    Args:
        row: of the query.
        relevant: rows of its relevant items.
    """
    query = {name: values[row] for name, values in data.queries.items()}
    answers = sorted(str(data.item_ids[item]) for item in relevant)
    text = json.dumps([query, answers], sort_keys=True, default=str)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def save(found: RowMetrics, folder: Path, file: RowFile = QUERIES) -> None:
    """Write the metrics into the reports of a bundle, without pickle."""
    arrays: dict[str, Any] = {file.rows: found.rows, **found.metrics, "clusters": found.clusters.of}
    arrays["unit"] = np.array(found.clusters.unit)
    np.savez_compressed(folder / bundle.REPORTS / file.name, allow_pickle=False, **arrays)


def load(folder: Path, file: RowFile = QUERIES) -> RowMetrics | None:
    """Read the metrics from the reports of a bundle; None if it has none.

    Raises:
        BundleDamaged: the file is not what `save` writes.
    """
    name = f"{bundle.REPORTS}/{file.name}"
    if name not in bundle.read_manifest(folder).files:
        return None
    try:
        with bundle.open_file(folder, name) as opened, np.load(opened, allow_pickle=False) as archive:
            arrays = {each: archive[each] for each in archive.files}
        rows, groups, unit = arrays.pop(file.rows), arrays.pop("clusters"), str(arrays.pop("unit"))
        if "losses" in arrays:  # in bundles of earlier versions
            arrays["log_loss"] = arrays.pop("losses")
        if {each.shape for each in (groups, *arrays.values())} != {rows.shape}:
            raise ValueError(f"expected as many values of each metric as {file.rows}")
        return RowMetrics(rows, arrays, Clusters.by(groups, len(rows), unit))
    except BundleDamaged:
        raise
    except Exception as error:  # NumPy's and those of damaged archives share no other base
        raise BundleDamaged(f"{folder / name}: not the {file.content}: {error}") from None
