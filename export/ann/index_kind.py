"""Kinds of indexes: what the export stage needs from each, and how a kind is found by its name.

A kind is a name in `INDEX_KINDS`, which the manifest stores in `index.kind`, and the module of that name in
`export/ann/kinds/`, whose `KIND` implements `IndexKind`; `remote.py` there has all `REMOTE_KINDS`. The
service has an implementation of the same name.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from twinspire.export.ann.graph import Rows, Vectors
from twinspire.export.ann.search import recalls
from twinspire.protos.bundle import (
    EXACT,
    HNSW,
    INDEX_KINDS,
    MANIFEST,
    REMOTE_KINDS,
    IndexParameters,
    Manifest,
    Score,
)
from twinspire.protos.errors import BundleError
from twinspire.protos.nearest.search import each_vector
from twinspire.train.config.index import IndexConfig

_MODULES = (
    "twinspire.export.ann.kinds.*"  # `train.fingerprint` understands this notation, so keys cover the modules
)


class SearchIndex(Protocol):
    """An index over item vectors (N, D) that returns what the service returns."""

    @property
    def parameters(self) -> IndexParameters:
        """For the manifest."""

    def search(self, queries: Vectors, k: int) -> Rows:
        """The best `k` items of each query (Q, D): (Q, min(k, N)) rows, best first."""

    def save(self, folder: Path) -> None:
        """Write the index's files into the folder of a bundle."""


@dataclass(frozen=True)
class TunedIndex:
    """An index with the measurements it was chosen by.

    Args:
        report: JSON; it has `k`, `target`, `build_s` and `why`.
    """

    index: SearchIndex
    report: dict[str, Any]


class IndexKind(Protocol):
    """Builds indexes of one kind."""

    def tune(self, vectors: Vectors, queries: Vectors, config: IndexConfig, score: Score) -> TunedIndex:
        """Build the index of a catalogue with parameters chosen by measurement.

        Args:
            vectors: (N, D), of the items.
            queries: (Q, D), at least one, to choose on; the index is evaluated on others.
            score: of the bundle.

        Raises:
            GateRefused: no index of this kind can serve the catalogue.
        """

    def publish(self, folder: Path, manifest: Manifest) -> None:
        """Write what an index keeps outside of its bundle, before the bundle is written; by default nothing.

        Args:
            folder: with the files of the bundle.
            manifest: with the digests of its files and its version.

        Raises:
            Unavailable: a server of the index does not answer.
        """
        return


def index_kind(name: str) -> IndexKind:
    """The kind of index that a configuration or a manifest names.

    Raises:
        BundleError: this program does not have the kind of a manifest.
    """
    kind = HNSW if name == EXACT else name
    if kind in REMOTE_KINDS:
        return cast(IndexKind, importlib.import_module(_MODULES.replace("*", "remote")).RemoteKind(kind))
    if kind not in INDEX_KINDS:
        raise BundleError(f"{MANIFEST}: index.kind: expected one of {', '.join(INDEX_KINDS)}, got {name!r}")
    return cast(IndexKind, importlib.import_module(_MODULES.replace("*", kind)).KIND)


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
    tuned.index.save(folder)
    recall = mean_recall(tuned.index, vectors, test, config.k)
    return tuned.index.parameters, {f"ann_recall_at_{config.k}": recall, **tuned.report}


def mean_recall(index: SearchIndex, vectors: Vectors, queries: Vectors, k: int) -> float:
    """Mean recall@k of what the service returns, against exact search over `vectors` (N, D)."""
    return float(recalls(index.search(queries, k), vectors, queries, k).mean())
