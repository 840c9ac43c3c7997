"""Metrics of every query of the test part, which travel with a bundle.

Two bundles are compared query by query, and the means do not tell what that takes. A query is known by a
digest of what is asked and of what answers it, so that two files are compared only where they speak of
the same queries.
"""

import hashlib
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from protos import bundle
from protos.errors import BundleDamaged
from train import metrics
from train.problem import Problem

FILE = "per_query.npz"
QUERIES = "queries"

Digests = npt.NDArray[np.uint64]
Values = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PerQuery:
    """The metrics of each query, in the order of the queries' digests.

    Args:
        queries: uint64 (Q,), digests.
        metrics: metric name -> float32 (Q,).
    """

    queries: Digests
    metrics: dict[str, Values]


def measure(problem: Problem, ranked: npt.NDArray[np.int64]) -> PerQuery:
    """The metrics of each query of the test part.

    Args:
        ranked: (Q, K) item rows for each query of the part, best first; -1 where there is none.
    """
    rows, relevant = problem.parts["test"].by_query()
    digests = np.array(
        [_digest(problem, *each) for each in zip(rows.tolist(), relevant, strict=True)], np.uint64
    )
    order = np.argsort(digests, kind="stable")
    found = metrics.per_query(ranked, relevant)
    return PerQuery(digests[order], {name: each[order].astype(np.float32) for name, each in found.items()})


def _digest(problem: Problem, row: int, relevant: npt.NDArray[np.int64]) -> int:
    asked = {name: values[row] for name, values in problem.queries.items()}
    answers = sorted(str(problem.item_ids[item]) for item in relevant)
    text = json.dumps([asked, answers], sort_keys=True, default=str)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def save(found: PerQuery, folder: Path) -> None:
    """Write the metrics among the reports of a bundle's folder; nothing in the file is pickled."""
    arrays: dict[str, Any] = {QUERIES: found.queries, **found.metrics}
    np.savez_compressed(folder / bundle.REPORTS / FILE, allow_pickle=False, **arrays)


def load(folder: Path) -> PerQuery | None:
    """The metrics that a bundle's reports hold, None where they hold none.

    Raises:
        BundleDamaged: the file is not what `save` writes.
    """
    name = f"{bundle.REPORTS}/{FILE}"
    path = folder / name
    if name not in bundle.read_manifest(folder).files:
        return None
    try:
        with bundle.open_file(folder, name) as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        queries = arrays.pop(QUERIES)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise BundleDamaged(f"{path}: not the metrics of queries: {error}") from None
    if queries.dtype != np.uint64 or queries.ndim != 1:
        raise BundleDamaged(f"{path}: {QUERIES}: expected uint64 (Q,), got {queries.dtype} {queries.shape}")
    for name, values in arrays.items():
        if values.dtype != np.float32 or values.shape != queries.shape:
            expected = f"float32 {queries.shape}"
            raise BundleDamaged(f"{path}: {name}: expected {expected}, got {values.dtype} {values.shape}")
    return PerQuery(queries, arrays)
