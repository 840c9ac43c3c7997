"""Vectors, index, reports and manifest of a refreshed bundle.

The towers, and what was measured of them, are the champion's. The index is built anew over all items, by
`[index]` of the experiment; its `ef_search` is tuned again.
"""

import shutil
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from twinspire.export import ann
from twinspire.export.bundle_files import write_bundle, write_reports
from twinspire.export.encoding.encoding import encode_all
from twinspire.export.encoding.records import example_queries
from twinspire.export.evaluation.drift_reference import refreshed
from twinspire.export.evaluation.quality import encode_queries
from twinspire.export.hybrid.postings import interleaved, rows_of, weights_of_rows, weights_of_texts
from twinspire.export.onnx.runtimes import Encode, onnx_encoder
from twinspire.export.refresh.merge import FRESH, Champion, Merged
from twinspire.export.refresh.quality import Evaluation
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


@dataclass(frozen=True)
class RefreshBuild:
    """What a refreshed bundle is made of.

    Args:
        experiment: its `[index]` holds.
        champion: the bundle that is refreshed.
        merged: the catalogue.
        fresh: float32 (n, D), vectors of the items that were encoded.
        snapshot: the state of the store that is in the catalogue.
        key: of the refresh.
        evaluation: the test split on the new catalogue, or why there is none.
    """

    experiment: Experiment
    champion: Champion
    merged: Merged
    fresh: Any
    snapshot: Snapshot | None
    key: str
    evaluation: Evaluation | str

    @property
    def manifest(self) -> Manifest:
        """Of the champion."""
        return self.champion.manifest

    @cached_property
    def query(self) -> Encode:
        """Encoder of the query tower."""
        return onnx_encoder(self.champion.folder / bundle.QUERY_TOWER, threads=0)

    def write(self) -> Path:
        """Write the bundle into the cache; returns its folder.

        Raises:
            GateRefused: no index can serve the catalogue.
        """
        return write_bundle(self._make)

    def _make(self, folder: Path, scratch: Path) -> Manifest:
        """Write all files; returns the manifest."""
        self._copy(folder)
        self.merged.items.write(folder)
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
            catalogue=self.snapshot,
            refreshed_from=Refreshed(self.manifest.bundle_version, self.key),
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
        merged, manifest = self.merged, self.manifest
        reference = DriftReference.read(self.champion.folder, manifest)
        if reference is not None:
            schema, count = manifest.schema, manifest.count
            refreshed(reference, schema, count, merged.origin, merged.fresh).write(folder)

    def _vectors(self, folder: Path) -> Any:
        """Write the vectors; returns them as the service reads them, (N, D)."""
        write_merged(folder, self.champion.folder, self.merged.origin, self.fresh, self.manifest.count)
        return np.load(folder / bundle.VECTORS, mmap_mode="c")  # torch warns about arrays that are read-only

    def _lexical(self, folder: Path) -> LexicalIndex | None:
        """Write the lexical index, if the champion has one: its weights, and those of the other items."""
        index = LexicalIndex.of(self.champion.folder, self.manifest)
        if index is None:
            return None
        merged = self.merged
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
        settings = self.experiment.index, self.manifest.score, folder
        parameters, report = ann.write_index(vectors, queries, *settings)
        if "searched_text" in self.manifest.ann:
            report["searched_text"] = self.manifest.ann["searched_text"]
        return parameters, report

    def _queries(self, part: str) -> Any:
        """The queries of a part of the split; the bundle's examples where the split does not apply."""
        inputs = self.manifest.schema.side("query")
        if isinstance(self.evaluation, Evaluation):
            data = self.evaluation.data
            rows, _ = data.parts[part].by_query()
            if len(rows):
                return encode_queries(self.query, inputs, data, rows, f"{part} queries")
        values = example_queries(self.manifest)
        return encode_all(self.query, inputs, values, "example queries")

    def _quality(self, vectors: Any, lexical: LexicalIndex | None, folder: Path) -> dict[str, Any]:
        """Metrics of the test split on the new catalogue; the champion's where the split does not apply."""
        if isinstance(self.evaluation, str):
            verdict = f"measured before the refresh, of bundle {self.manifest.bundle_version[:12]}"
            return {**self.manifest.quality, "not_measured": self.evaluation, "verdict": verdict}
        return self.evaluation.measure(self.query, vectors, folder, lexical)

    def _report(self) -> dict[str, Any]:
        return {
            **self.merged.counts(),
            "source": self.manifest.bundle_version,
            "catalogue": self.snapshot and asdict(self.snapshot),
            "failed_items": dict([*self.merged.failed.items()][:100]),
        }
