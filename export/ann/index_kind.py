"""Kinds of indexes: what the export stage needs from each, and how a kind is found by its name.

A kind is a name in `INDEX_KINDS`, which the manifest stores in `index.kind`, and the module of that name in
`export/ann/kinds/`, which has the functions of `IndexKind`; `remote.py` there has all `REMOTE_KINDS`. The
service has an implementation of the same name.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from twinspire.export.ann.graph import Rows, Vectors, save
from twinspire.export.ann.search import recalls
from twinspire.protos.bundle import (
    EXACT,
    HNSW,
    INDEX_KINDS,
    LINKS,
    MANIFEST,
    REMOTE_KINDS,
    IndexParameters,
    Score,
)
from twinspire.protos.errors import BundleError
from twinspire.protos.nearest.coded_vectors import CodedVectors
from twinspire.protos.nearest.search import each_vector
from twinspire.train.config.index import IndexConfig

_MODULES = (
    "twinspire.export.ann.kinds.*"  # `train.fingerprint` understands this notation, so keys cover the modules
)


@dataclass(frozen=True)
class TunedIndex:
    """An index over item vectors (N, D), with the measurements that it was chosen by.

    Args:
        parameters: for the manifest.
        report: JSON; it has `k`, `target`, `build_s` and `why`.
        search: queries (Q, D) and k -> the rows that the service would return, (Q, min(k, N)), best first.
        graph: for the bundle; None where every search compares all items, or another server searches.
    """

    parameters: IndexParameters
    report: dict[str, Any]
    search: Callable[[Vectors, int], Rows]
    graph: CodedVectors | None = None


class IndexKind(Protocol):
    """The functions of a module that builds indexes."""

    def tune(self, vectors: Vectors, queries: Vectors, config: IndexConfig, score: Score) -> TunedIndex:
        """Build the index of a catalogue with parameters chosen by measurement.

        Args:
            vectors: (N, D), of the items.
            queries: (Q, D), at least one, to choose on; the index is evaluated on others.
            score: of the bundle.

        Raises:
            GateRefused: no index of this kind can serve the catalogue.
            ConfigError, PackageMissing, Unavailable: the server of the index is not named, its client is not
                installed, or it does not answer.
        """


def index_kind(name: str) -> IndexKind:
    """The kind of index that a configuration or a manifest names.

    Raises:
        BundleError: this program does not have the kind of a manifest.
    """
    kind = HNSW if name == EXACT else name
    if kind not in INDEX_KINDS:
        raise BundleError(f"{MANIFEST}: index.kind: expected one of {', '.join(INDEX_KINDS)}, got {name!r}")
    module = "remote" if kind in REMOTE_KINDS else kind
    return cast(IndexKind, importlib.import_module(_MODULES.replace("*", module)))


def write_index(
    vectors: Vectors,
    queries: tuple[Vectors, Vectors],
    config: IndexConfig,
    score: Score,
    folder: Path,
) -> tuple[IndexParameters, dict[str, Any]]:
    """Build, tune and write the index of a bundle; returns its parameters and its report.

    Args:
        vectors: (N, D), of the items.
        queries: of validation, to choose on, and of test, to measure recall on, (Q, D) or (Q, K * D).
        score: of the bundle.
        folder: of the bundle.
    """
    # Each vector of a query is a search of its own.
    validation, test = (each_vector(each, vectors.shape[1]) for each in queries)
    tuned = index_kind(config.kind).tune(vectors, validation, config, score)
    if tuned.graph is not None:
        save(tuned.graph, folder / LINKS)
    recall = mean_recall(tuned, vectors, test, config.k)
    return tuned.parameters, {f"ann_recall_at_{config.k}": recall, **tuned.report}


def mean_recall(index: TunedIndex, vectors: Vectors, queries: Vectors, k: int) -> float:
    """Mean recall@k of what the service returns, against exact search over `vectors` (N, D)."""
    return float(recalls(index.search(queries, k), vectors, queries, k).mean())
