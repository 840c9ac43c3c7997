"""Metrics of every test query, stored in the bundle.

Gates compare two bundles query by query, for which means are not enough. A query is identified by a digest of
its values and of its relevant items, so two files are compared only on the queries that both have. With each
query goes its cluster (`train/evaluation/intervals.py`), of which intervals draw.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twinspire.protos import bundle
from twinspire.protos.errors import BundleDamaged
from twinspire.train.data.training_data import TrainingData
from twinspire.train.evaluation.intervals import Clusters, clusters_of
from twinspire.train.metrics import per_query

FILE = "per_query.npz"
QUERIES, CLUSTERS, UNIT = "queries", "clusters", "unit"

Digests = npt.NDArray[np.uint64]
Values = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PerQuery:
    """The metrics of each query, in the order of the queries' digests.

    Args:
        queries: uint64 (Q,), digests.
        metrics: metric name -> float32 (Q,).
        clusters: of the queries.
    """

    queries: Digests
    metrics: dict[str, Values]
    clusters: Clusters

    def of_queries(self, rows: npt.NDArray[np.int64]) -> "PerQuery":
        """The metrics of some of the queries."""
        metrics = {name: values[rows] for name, values in self.metrics.items()}
        return PerQuery(self.queries[rows], metrics, self.clusters[rows])


def measure(data: TrainingData, ranked: npt.NDArray[np.int64]) -> PerQuery:
    """Compute the metrics of each test query.

    Args:
        ranked: (Q, K) item rows for each test query, best first; -1 where there are no more.
    """
    rows, relevant = data.parts["test"].by_query()
    digests = np.array([digest(data, *each) for each in zip(rows.tolist(), relevant, strict=True)], np.uint64)
    order = np.argsort(digests, kind="stable")
    found = per_query(ranked, relevant)
    values = {name: each.astype(np.float32) for name, each in found.items()}
    return PerQuery(digests, values, clusters_of(data, "test")).of_queries(order)


def common(one: PerQuery, other: PerQuery) -> tuple[PerQuery, PerQuery]:
    """Both, restricted to the queries that both have."""
    _, *rows = np.intersect1d(one.queries, other.queries, return_indices=True)
    return one.of_queries(rows[0]), other.of_queries(rows[1])


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


def save(found: PerQuery, folder: Path) -> None:
    """Write the metrics into the reports of a bundle, without pickle."""
    write_rows(folder, FILE, (QUERIES, found.queries), found.metrics, found.clusters)


def write_rows(
    folder: Path, file: str, rows: tuple[str, Digests], values: Mapping[str, Any], clusters: Clusters
) -> None:
    """Write digests with their name, values of each and clusters into the reports of a bundle."""
    arrays: dict[str, Any] = {rows[0]: rows[1], **values, CLUSTERS: clusters.of}
    arrays[UNIT] = np.array(clusters.unit)
    np.savez_compressed(folder / bundle.REPORTS / file, allow_pickle=False, **arrays)


def read_rows(
    folder: Path, file: str, what: str, rows: str, kinds: Mapping[str, type]
) -> tuple[Digests, dict[str, Any], Clusters] | None:
    """What `write_rows` has written; None if the bundle has no such file.

    Args:
        what: the content, for the error.
        rows: the name of the digests.
        kinds: the types of values that are required; others are float32.

    Raises:
        BundleDamaged: the file is not what `write_rows` writes.
    """
    path = folder / bundle.REPORTS / file
    arrays = _arrays(folder, file, what, (rows, *kinds, CLUSTERS, UNIT))
    if arrays is None:
        return None
    unit, shape = arrays.pop(UNIT), (arrays[rows].size,)
    for name, values in arrays.items():
        kind = np.dtype({rows: np.uint64, CLUSTERS: np.int64, **kinds}.get(name, np.float32))
        if values.dtype != kind or values.shape != shape:
            expected = f"{kind} {shape}"
            raise BundleDamaged(f"{path}: {name}: expected {expected}, got {values.dtype} {values.shape}")
    if unit.dtype.kind != "U":
        raise BundleDamaged(f"{path}: {UNIT}: expected a text, got {unit.dtype}")
    clusters = Clusters.by(arrays.pop(CLUSTERS), shape[0], str(unit))
    return arrays.pop(rows), arrays, clusters


def _arrays(folder: Path, file: str, what: str, required: Collection[str]) -> dict[str, Any] | None:
    name = f"{bundle.REPORTS}/{file}"
    if name not in bundle.read_manifest(folder).files:
        return None
    try:
        with bundle.open_file(folder, name) as opened, np.load(opened, allow_pickle=False) as archive:
            return {each: archive[each] for each in {*archive.files, *required}}
    except BundleDamaged:
        raise
    except Exception as error:  # NumPy's and those of damaged archives share no other base
        raise BundleDamaged(f"{folder / name}: not the {what}: {error}") from None


def load(folder: Path) -> PerQuery | None:
    """Read the metrics from the reports of a bundle; None if it has none.

    Raises:
        BundleDamaged: the file is not what `save` writes.
    """
    found = read_rows(folder, FILE, "metrics of queries", QUERIES, {})
    return None if found is None else PerQuery(*found)
