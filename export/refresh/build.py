"""Vectors, index, reports and manifest of a refreshed bundle.

The towers, and what was measured of them, are the champion's. The index is built anew over all items, by
`[index]` of the experiment; the width of its searches is tuned again.
"""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from twinspire.export import ann
from twinspire.export.bundle_files import write_bundle, write_reports
from twinspire.export.encoding import ColumnRecords, EncodedFile, ItemTower, encode_all, encode_into
from twinspire.export.evaluation import pair_losses, per_query
from twinspire.export.evaluation.drift_reference import refreshed
from twinspire.export.evaluation.quality import encode_queries
from twinspire.export.example_queries import example_queries
from twinspire.export.hybrid.rebuild import interleaved, rows_of, weights_of_rows, weights_of_texts
from twinspire.export.onnx.runtimes import Encode, onnx_encoder
from twinspire.export.refresh.merge import FRESH, Champion, Merged
from twinspire.export.refresh.quality import Evaluation, NotMeasured
from twinspire.protos import bundle
from twinspire.protos.bundle import SCHEMA_VERSION, Manifest, Refreshed, Snapshot
from twinspire.protos.drift import DriftReference
from twinspire.protos.errors import BundleError
from twinspire.protos.hybrid.lexical_index import LexicalIndex
from twinspire.protos.nearest.vectors import write_merged
from twinspire.train.config import Experiment
from twinspire.train.data.training_data import texts_of

# Reports that hold for the refreshed bundle, too: of the towers, and of what validation has chosen.
OF_TOWERS = ("parity", "precision", "latency", "hybrid", "scores")


@dataclass(frozen=True)
class RefreshInputs:
    """What a bundle is made of.

    Args:
        champion: the bundle that is refreshed.
        merged: the catalogue.
        fresh: float32 (n, D), vectors of the items that were encoded.
        snapshot: the state of the store that is in the catalogue.
        key: of the refresh.
        evaluation: the test split on the new catalogue, or why there is none.
    """

    champion: Champion
    merged: Merged
    fresh: Any
    snapshot: Snapshot | None
    key: str
    evaluation: Evaluation | NotMeasured


def encode_fresh(champion: Champion, merged: Merged, output: Path, console: Console) -> EncodedFile | None:
    """Encode the items that are new or have changed; resumes after a kill. None if there are none.

    Raises:
        BundleDamaged, DataError, Unavailable: as `encode_into`.
    """
    if not merged.fresh_count:
        return None
    records = ColumnRecords(merged.fresh, "new and changed items")
    tower = ItemTower.of(champion.folder, champion.manifest)
    return encode_into(output, tower, records, console, "new and changed items")


def build(experiment: Experiment, inputs: RefreshInputs, console: Console) -> Path:
    """Write the refreshed bundle into the cache; returns its folder.

    Raises:
        GateRefused: no index can serve the catalogue.
    """
    return write_bundle(_Build(experiment, inputs, console).make)


def find_built(key: str, folder: Path) -> Path | None:
    """The bundle of a refresh that an earlier process has built, verified; None if there is none."""
    for path in folder.glob(f"[!.]*/{bundle.MANIFEST}"):
        try:
            refreshed = bundle.read_manifest(path.parent).refreshed_from
            if refreshed is not None and refreshed.key == key:
                bundle.read(path.parent)
                return path.parent
        except BundleError:
            continue
    return None


class _Build:
    """Makes one bundle."""

    def __init__(self, experiment: Experiment, inputs: RefreshInputs, console: Console) -> None:
        self.experiment, self.inputs, self.console = experiment, inputs, console
        self.champion, self.manifest = inputs.champion, inputs.champion.manifest
        path = self.champion.folder / bundle.QUERY_TOWER
        self.query: Encode = onnx_encoder(path, threads=0)

    def make(self, folder: Path, scratch: Path) -> Manifest:
        """Write all files; returns the manifest."""
        self._copy(folder)
        self.inputs.merged.items.write(folder)
        self._drift(folder)
        lexical = self._lexical(folder)
        vectors = self._vectors(folder)
        parameters, index = self._index(vectors, folder)
        quality = self._quality(vectors, lexical, folder)
        write_reports({"index": index, "quality": quality, "refresh": self._report()}, folder)
        return replace(
            self.manifest,
            count=len(vectors),
            index=parameters,
            quality=quality,
            ann=index,
            catalogue=self.inputs.snapshot,
            refreshed_from=Refreshed(self.manifest.bundle_version, self.inputs.key),
            files={},
            bundle_version="",
            schema_version=SCHEMA_VERSION,
        )

    def _copy(self, folder: Path) -> None:
        """Take over the towers, the files of their features, and what was measured of them."""
        for name in bundle.TOWERS.values():
            shutil.copyfile(self.champion.folder / name, folder / name)
        self.manifest.schema.copy_files(folder)
        for path in [f"{bundle.REPORTS}/{name}.json" for name in OF_TOWERS]:
            if path in self.manifest.files:
                shutil.copyfile(self.champion.folder / path, folder / path)

    def _drift(self, folder: Path) -> None:
        """Write the reference for drift, if the champion has one."""
        merged, manifest = self.inputs.merged, self.manifest
        reference = DriftReference.read(self.champion.folder, manifest)
        if reference is not None:
            schema, count = manifest.schema, manifest.count
            refreshed(reference, schema, count, merged.origin, merged.fresh).write(folder)

    def _vectors(self, folder: Path) -> Any:
        """Write the vectors; returns them as the service reads them, (N, D)."""
        inputs, source = self.inputs, self.champion.folder
        write_merged(folder, source, inputs.merged.origin, inputs.fresh, self.manifest.count)
        return np.load(folder / bundle.VECTORS, mmap_mode="c")  # torch warns about arrays that are read-only

    def _lexical(self, folder: Path) -> LexicalIndex | None:
        """Write the lexical index, if the champion has one: its weights, and those of the other items."""
        index = LexicalIndex.of(self.champion.folder, self.manifest)
        if index is None:
            return None
        merged = self.inputs.merged
        is_kept = merged.origin != FRESH
        kept = weights_of_rows(index.postings, merged.origin[is_kept])
        known = rows_of(self.champion.items.ids, merged.items.ids)[~is_kept]
        fresh = weights_of_texts(index, texts_of(merged.fresh, self.manifest.schema.item), known)
        postings = interleaved(index.postings, kept, fresh, is_kept)
        postings.write(folder)
        return LexicalIndex(postings, index.hybrid)

    def _index(self, vectors: Any, folder: Path) -> tuple[bundle.IndexParameters, dict[str, Any]]:
        """Build and tune the index; returns its parameters and its report."""
        queries = self._queries("validation"), self._queries("test")
        settings = self.experiment.index, self.manifest.score, folder, self.console
        parameters, report = ann.write_index(vectors, queries, *settings)
        if "searched_text" in self.manifest.ann:
            report["searched_text"] = self.manifest.ann["searched_text"]
        return parameters, report

    def _queries(self, part: str) -> Any:
        """The queries of a part of the split; the bundle's examples where the split does not apply."""
        inputs, evaluation = self.manifest.schema.side("query"), self.inputs.evaluation
        if isinstance(evaluation, Evaluation):
            data = evaluation.data
            rows, _ = data.parts[part].by_query()
            if len(rows):
                return encode_queries(self.query, inputs, data, rows, self.console, f"{part} queries")
        values = example_queries(self.manifest)
        return encode_all(self.query, inputs, values, self.console, "example queries")

    def _quality(self, vectors: Any, lexical: LexicalIndex | None, folder: Path) -> dict[str, Any]:
        """Metrics of the test split on the new catalogue; the champion's where the split does not apply."""
        evaluation = self.inputs.evaluation
        if isinstance(evaluation, NotMeasured):
            verdict = f"measured before the refresh, of bundle {self.manifest.bundle_version[:12]}"
            return {**self.manifest.quality, "not_measured": evaluation.why, "verdict": verdict}
        merged, console = self.inputs.merged, self.console
        found = evaluation.measure(self.query, merged, vectors, console, lexical)
        per_query.save(found.queries, folder)
        if found.losses is not None:
            pair_losses.save(found.losses, folder)
        return found.metrics

    def _report(self) -> dict[str, Any]:
        merged, snapshot = self.inputs.merged, self.inputs.snapshot
        return {
            **merged.counts(),
            "source": self.manifest.bundle_version,
            "catalogue": snapshot and asdict(snapshot),
            "failed_items": dict([*merged.failed.items()][:100]),
        }


def not_finite(merged: Merged, fresh: Any) -> Mapping[str, str]:
    """Items whose vectors are not finite: id -> the reason to leave them out."""
    bad = ~np.isfinite(fresh).all(axis=1)
    if not bad.any():
        return {}
    places = np.flatnonzero(merged.origin < 0)[bad]
    return {merged.items.ids[place]: "the item tower's vector is not finite" for place in places.tolist()}
