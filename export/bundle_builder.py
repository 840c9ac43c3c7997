"""Builds the bundle of a training run.

    python -m twinspire.export bundle --config train/configs/pydocs.toml

Everything is measured on what the bundle contains: quality by the ONNX files and the vectors that they
compute, searched exactly, and recall by the index that the service will load. A bundle whose inputs have not
changed is not built again.
"""

import dataclasses
import os
import shutil
import unicodedata
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.entities import Run

from twinspire.export import ann
from twinspire.export.benchmark.towers import TowerForms, measure_towers, torch_threads
from twinspire.export.bundle_files import ItemColumns, display_text, publish, write_bundle, write_reports
from twinspire.export.bundles import bundle_of_tag
from twinspire.export.encoding.digests import item_digests
from twinspire.export.encoding.encoding import EncodedFile, ItemTower, encode_once
from twinspire.export.encoding.records import ColumnRecords
from twinspire.export.evaluation import drift_reference, pair_losses, per_query, quality, weak_scores
from twinspire.export.evaluation.hybrid_ranking import HybridRanking
from twinspire.export.hybrid.choose import Choice, choose
from twinspire.export.hybrid.postings import over_texts, with_priors
from twinspire.export.hybrid.priors import priors_of
from twinspire.export.logged_model import log_bundle
from twinspire.export.onnx import parity
from twinspire.export.onnx.export import export_tower, frozen
from twinspire.export.onnx.runtimes import LARGEST_BATCH, Encode, onnx_encoder, torch_encoder
from twinspire.export.quantization import ExportedTower, choose_precision
from twinspire.protos import bundle
from twinspire.protos.errors import MissingStage
from twinspire.protos.features import SIDES, HistoryFeature, Schema, Side, TextFeature
from twinspire.protos.figures import WARNINGS
from twinspire.protos.files.file_lock import exclusive_lock
from twinspire.protos.hybrid.fusion import Fusion
from twinspire.protos.hybrid.lexical_index import LexicalIndex, Postings
from twinspire.protos.inputs.event_types import EventTypes
from twinspire.protos.inputs.texts import normalise
from twinspire.protos.mlflow_keys import PRETRAINED_MODEL
from twinspire.protos.nearest.vectors import write_vectors
from twinspire.train.config import Experiment
from twinspire.train.data.dataset import Dataset
from twinspire.train.data.filters import filter_kinds, filter_values
from twinspire.train.data.training_data import TrainingData, data_of_kept_towers, texts_of, values_of
from twinspire.train.evaluation.lexical_choice import has_texts
from twinspire.train.evaluation.quality_page import PAGE, quality_page
from twinspire.train.evaluation.ranking import BaselineFitter
from twinspire.train.fingerprint import code_fingerprint, fingerprint
from twinspire.train.paths import CACHE
from twinspire.train.progress import PROGRESS
from twinspire.train.training.refit import vectors_before_refit
from twinspire.train.training.run import choices_of
from twinspire.train.training.run_metrics import metrics_of
from twinspire.train.training.tracking import mlflow_errors, warnings_of
from twinspire.train.training.trained_model import Model, load_model

LOCKS = CACHE / "locks"
EXAMPLES = 200  # test queries in a bundle
SAMPLE = 500  # test records for parity and latency, or fewer if they have more than `CHARACTERS`
CHARACTERS = 16 * LARGEST_BATCH


def build_bundle(experiment: Experiment, dataset: Dataset, run: Run) -> tuple[Path, bool]:
    """Build the bundle of a run; also returns whether it had been built before.

    Raises:
        MissingStage: the run has no model, or was trained on other data.
        GateRefused: torch and ONNX Runtime differ by more than the tolerance.
        Unavailable: a server of the index or MLflow does not answer. The next call uses a finished bundle.
    """
    trained_on = run.data.tags.get("dataset.fingerprint", "")
    if trained_on != dataset.report["fingerprint"]:
        raise MissingStage(
            f"run {run.info.run_id}: was trained on another state of the data ({trained_on[:12] or 'none'}, "
            f"now {dataset.report['fingerprint'][:12]}): the data, their settings, or the code or libraries "
            "that read them have changed; train again"
        )
    tag = "twinspire.bundle." + _fingerprint(experiment, run)[:12]
    # Other processes that build the bundle of the same tag wait, and then find it built.
    waits = partial(PROGRESS.print, "another process is making this bundle; waiting for it")
    with exclusive_lock(LOCKS / f"{tag}.lock", on_wait=waits):
        # The run is read again, because another process may have built the bundle meanwhile.
        known = bundle_of_tag(mlflow.get_run(run.info.run_id), tag)
        if known is not None:
            publish(known)
            os.utime(known / bundle.MANIFEST)  # by which the next commands find it as the newest
        folder = known or _BundleBuilder(experiment, dataset, run).write(tag)
        log_bundle(folder, run.info.run_id)
    return folder, known is not None


def event_types(experiment: Experiment) -> EventTypes:
    """How queries with a user take recorded events: as training took those of the data."""
    positive_from = getattr(experiment.data, "positive_from", None)
    has_label = positive_from is not None or bool(getattr(experiment.data, "label", ""))
    return EventTypes(experiment.events.types, has_label, positive_from)


def _fingerprint(experiment: Experiment, run: Run) -> str:
    """Key over everything that determines a bundle; the run stands for its data and its towers."""
    settings = dataclasses.asdict(experiment)
    for later in ("gates", "retrain"):
        del settings[later]
    return fingerprint(run.info.run_id, settings, code_fingerprint(__name__))


class TowerExporter:
    """Exports both towers of a trained model to ONNX, as they will be served.

    They are exported in float32 first, and the precision is chosen. The chosen variant is compared with a
    torch tower whose tables are rounded in the same way, and timed beside it.

    Args:
        data: has the records to measure on.
    """

    def __init__(self, experiment: Experiment, model: Model, data: TrainingData) -> None:
        self.experiment, self.model, self.data = experiment, model, data

    def export(self, folder: Path, scratch: Path) -> tuple[dict[Side, ExportedTower], dict[str, Any]]:
        """Write both towers into `folder`, and their variants into `scratch`.

        Returns:
            The towers as they will be served, and the reports `parity`, `precision` and `latency`.

        Raises:
            GateRefused: torch and ONNX Runtime differ by more than the tolerance.
            ConfigError: the configured variant cannot be made of a tower.
        """
        plain = {side: self._export(side, scratch) for side in SIDES}
        own, items = (self.experiment.precision, scratch), self.data.items
        chosen = choose_precision(plain, self.data, *own, lambda path: self.encode_items(path, items).vectors)
        served = {
            side: dataclasses.replace(each, path=shutil.copyfile(each.path, folder / bundle.TOWERS[side]))
            for side, each in chosen.towers.items()
        }
        parities = {side: self._parity(each) for side, each in served.items()}
        return served, {"parity": parities, "precision": chosen.report, "latency": self._latency(served)}

    def encode_items(
        self, path: Path, values: Mapping[str, Sequence[Any]], title: str = "items as evaluated"
    ) -> EncodedFile:
        """Items by the item tower in a file, once for each file and text.

        Args:
            values: feature name -> raw values.
        """
        inputs, encode = self.model.schema.side("item"), onnx_encoder(path, threads=0)
        dimension = encode(inputs.to_arrays(self.sample("item", 1))).shape[1]
        tower, records = ItemTower(path, inputs, dimension, encode), ColumnRecords(values, title)
        return encode_once(self.experiment.name, tower, records)

    def sample(self, side: Side, count: int = SAMPLE) -> dict[str, list[Any]]:
        """Raw values of test records, fewer than `count` if they are long: feature name -> values."""
        values: dict[str, list[Any]] = self.data.sample(side, "test", count, seed=0)
        lengths = self.model.schema.side(side).lengths(values, len(next(iter(values.values()))))
        most = max(1, int(np.searchsorted(np.cumsum(lengths), CHARACTERS, side="right")))
        return {name: column[:most] for name, column in values.items()}

    def _export(self, side: Side, folder: Path) -> ExportedTower:
        tower = frozen(self.model.towers[SIDES.index(side)])
        inputs, path = self.model.schema.side(side), folder / bundle.TOWERS[side]
        with PROGRESS.status(f"exporting the {side} tower"):
            one = self.sample(side, 1)
            example = inputs.to_arrays({name: value * 2 for name, value in one.items()})
            export_tower(tower, inputs.features, example, path)
        return ExportedTower(side, inputs, tower, path)

    def _parity(self, each: ExportedTower) -> dict[str, Any]:
        """Compare a file with the tower in torch, whose tables are rounded as in the file."""
        # Torch's idle threads spin: on a busy machine two take up to 20 times as much processor time as one.
        threads = self.experiment.export.threads
        with torch_threads(threads), PROGRESS.status(f"parity of the {each.side} tower"):
            return parity.check(
                each.side,
                each.inputs,
                onnx_encoder(each.path, threads),
                torch_encoder(each.tower),
                self.sample(each.side),
                self.experiment.export.parity_tolerance,
            )

    def _latency(self, served: Mapping[Side, ExportedTower]) -> dict[str, Any]:
        forms = {
            side: TowerForms(each.inputs, each.tower, each.path, self.sample(side))
            for side, each in served.items()
        }
        return measure_towers(forms, self.experiment.export)


class _BundleBuilder:
    """Builds one bundle, step by step, in a draft folder."""

    def __init__(self, experiment: Experiment, dataset: Dataset, run: Run) -> None:
        self.dataset = dataset
        self.run = run
        self.choices = choices_of(run, experiment, dataset)
        self.model: Model = load_model(run)
        self.experiment = experiment.with_features(self.model.schema)
        self.data: TrainingData = data_of_kept_towers(dataset, self.experiment)
        self.fitter = BaselineFitter(self.experiment, self.data, stored=self.choices)
        self.score = self.model.towers[0].head.score()
        self.reports: dict[str, dict[str, Any]] = {}

    def write(self, tag: str) -> Path:
        """Build all files, write the bundle atomically, and name it in a tag of the run."""
        written = write_bundle(self._make)
        with mlflow_errors():
            mlflow.MlflowClient().set_tag(self.run.info.run_id, tag, written.name)
        return written

    def _make(self, folder: Path, scratch: Path) -> bundle.Manifest:
        exporter = TowerExporter(self.experiment, self.model, self.data)
        towers, reports = exporter.export(folder, scratch)
        self.reports |= reports
        evaluated, catalogue = self._vectors(exporter, towers["item"].path)
        write_vectors(folder, catalogue)
        query = towers["query"]
        encode = onnx_encoder(query.path, self.experiment.export.threads)
        queries = self._queries(encode, "validation")
        both = queries, self._queries(encode, "test")
        settings = self.experiment.index, self.score, folder
        parameters, report = ann.write_index(catalogue, both, *settings)
        self.reports["index"] = report | {"searched_text": self.dataset.report["served_text"]}
        choice = self._choose_hybrid(queries, evaluated, parameters.ef_search)
        ranking, tried = (choice.ranking, None) if choice.shipped else (None, choice.ranking)
        model = quality.ServedModel(encode, query.inputs, evaluated, ranking)
        self.reports["scores"] = weak_scores.learn(self.data, model, queries, self.score)
        items, weak = self._served_values(), self.reports["scores"].get("weak_score")
        with PROGRESS.status("the reference for drift"):
            reference = drift_reference.learn(
                self.data, self.model.schema, model, queries, items, self.score, weak
            )
        reference.write(folder)
        self._quality(model, tried, folder)
        served = self._write_lexical(choice, catalogue, folder)
        self._judged(quality.ServedModel(encode, query.inputs, catalogue, served))
        self._items(served is not None).write(folder)
        self.model.schema.copy_files(folder)
        write_reports(self.reports, folder)
        hybrid = None if served is None else served.fusion.hybrid
        return self._manifest(towers, catalogue, parameters, hybrid)

    def _vectors(self, exporter: TowerExporter, path: Path) -> tuple[Any, Any]:
        """Item vectors (N, D) for evaluation and for serving, by the tower in a file."""
        evaluated = exporter.encode_items(path, self.data.items).vectors
        specs = self.experiment.item.values()
        if not any(isinstance(each, TextFeature) and each.serves_other_text for each in specs):
            return evaluated, evaluated
        return evaluated, exporter.encode_items(path, self._served_values(), "items as served").vectors

    def _queries(self, encode: Encode, part: str) -> Any:
        rows, _ = self.data.parts[part].by_query()
        title = f"{part} queries"
        inputs = self.model.schema.side("query")
        return quality.encode_queries(encode, inputs, self.data, rows, title)

    def _choose_hybrid(self, queries: Any, evaluated: Any, ef_search: int) -> Choice:
        """Decide by the validation queries whether the bundle gets a lexical index, and say why.

        Towers that a refit has taught the validation pairs cannot be compared with BM25 there, so the vectors
        of the towers before decide.
        """
        data = self.data.before_refit
        if data is None or self.experiment.hybrid.enabled is False or not has_texts(self.experiment, data):
            choice = choose(self.fitter, ef_search, evaluated, queries, self.score)
        else:
            items, queries = vectors_before_refit(self.run)
            fitter = BaselineFitter(self.experiment, data, stored=self.choices)
            choice = choose(fitter, ef_search, items, queries, self.score)
            choice = self._refitted(choice, evaluated)
        self.reports["hybrid"] = choice.report
        return choice

    def _refitted(self, choice: Choice, evaluated: Any) -> Choice:
        """A choice by the towers before the refit, with the ranking by those that are served."""
        ranking = choice.ranking
        if ranking is not None:
            lexical = ranking.fusion.index
            ranking = ranking.over(evaluated, self._with_priors(lexical.postings, lexical.hybrid))
        report = {**choice.report, "towers": "before the refit"}
        return dataclasses.replace(choice, ranking=ranking, report=report)

    def _with_priors(self, postings: Postings, hybrid: bundle.Hybrid) -> Postings:
        """The postings with the priors by the clicks that the towers have learned, if a prior is shipped."""
        return (
            with_priors(postings, priors_of(self.experiment, self.data)) if hybrid.prior_weight else postings
        )

    def _quality(self, model: quality.ServedModel, tried: HybridRanking | None, folder: Path) -> None:
        with PROGRESS.status("quality on the test split, baselines beside it"):
            before = metrics_of(self.run)
            metrics, answers, products = quality.evaluate(self.fitter, model, self.score, before, tried)
        page = quality_page(self.data, answers, self.experiment.name, "bundle")
        (folder / bundle.REPORTS / PAGE).write_text(page)
        per_query.save(per_query.measure(self.data, answers[""]), folder)
        losses = pair_losses.measure(self.data, products, self.score)
        if losses is not None:
            per_query.save(losses, folder, per_query.PAIRS)
        texts = self.dataset.report["evaluated_text"]
        self.reports["quality"] = metrics | {"evaluated_text": texts, WARNINGS: warnings_of(self.run)}

    def _write_lexical(self, choice: Choice, catalogue: Any, folder: Path) -> HybridRanking | None:
        """Write the lexical index over the items as served, if there is to be one; returns their ranking."""
        if choice.hybrid is None or not choice.shipped:
            return None
        with PROGRESS.status("lexical index"):
            texts = texts_of(self._served_values(), self.experiment.item)
            postings, hybrid = over_texts(choice.hybrid, texts)
            postings = self._with_priors(postings, hybrid)
        postings.write(folder)
        return HybridRanking(catalogue, Fusion(LexicalIndex(postings, hybrid), catalogue))

    def _judged(self, model: quality.ServedModel) -> None:
        """Add the quality on the judged queries, over the items as served."""
        if self.data.judged is None:
            return
        with PROGRESS.status("quality on the judged queries, baselines beside it"):
            fitter = BaselineFitter(self.experiment, self.data.as_served(), stored=self.choices)
            self.reports["quality"] |= quality.evaluate_judged_queries(fitter, model, self.data.judged.query)

    def _items(self, is_hybrid: bool) -> ItemColumns:
        """All items, in the order of the vectors."""
        items, counts = self.dataset.items, self.data.counts()
        kinds = filter_kinds(items)
        return ItemColumns(
            items["item_id"].to_list(),
            (counts / max(1, counts.sum())).tolist(),
            {name: [display_text(each) for each in items[name]] for name in self.dataset.report["display"]},
            item_digests(self.model.schema.side("item"), self._served_values(), is_hybrid),
            kinds,
            {name: filter_values(items, name) for name in kinds},
        )

    def _served_values(self) -> Mapping[str, Sequence[Any]]:
        """Feature name -> raw values of the items, from the columns of the catalogue."""
        return values_of(self.dataset.items, self.experiment.item, catalogue=True)

    def _manifest(
        self,
        towers: Mapping[Side, ExportedTower],
        catalogue: Any,
        parameters: bundle.IndexParameters,
        hybrid: bundle.Hybrid | None,
    ) -> bundle.Manifest:
        report = {**self.dataset.report, "events": event_types(self.experiment).document()}
        return bundle.Manifest(
            name=self.experiment.name,
            run_id=self.run.info.run_id,
            git_commit=self.run.data.tags.get("git_commit", ""),
            dataset=report,
            split_hash=self.dataset.split_hash,
            dimension=int(catalogue.shape[1]),
            count=len(catalogue),
            schema=self.model.schema,
            index=parameters,
            display_fields=tuple(report["display"]),
            examples=tuple(examples(self.experiment, self.data, self.model.schema)),
            quality=self.reports["quality"],
            parity=self.reports["parity"],
            ann=self.reports["index"],
            latency=self.reports["latency"],
            score=self.score,
            precision=bundle.Precisions(towers["query"].variant, towers["item"].variant),
            filters=filter_kinds(self.dataset.items),
            letters=known_letters(self.experiment, self.data),
            unicode=unicodedata.unidata_version,
            hybrid=hybrid,
            pretrained=self.run.data.tags.get(PRETRAINED_MODEL, ""),
            interests=self.model.towers[0].head.interests,
            score_reference=self.reports["scores"].get("score_reference"),
            weak_score=self.reports["scores"].get("weak_score"),
        )


def known_letters(experiment: Experiment, data: TrainingData) -> str:
    """Letters and digits of the texts that the towers were trained on, normalised and sorted.

    Empty where the query tower reads no text.
    """
    queries = texts_of(data.queries, experiment.query)
    if not queries:
        return ""
    rows, _ = data.parts["train"].by_query()
    found: set[str] = set()
    for text in (*(queries[row] for row in rows), *texts_of(data.items, experiment.item)):
        found.update(normalise(text))  # the whole text: NFKC composes letters of several code points
    return "".join(sorted(filter(str.isalnum, found)))


def examples(experiment: Experiment, data: TrainingData, schema: Schema) -> list[dict[str, Any]]:
    """The example queries of the experiment, then some of the test split."""
    sample = data.sample("query", "test", EXAMPLES, seed=0)
    for name, spec in schema.query.items():
        if isinstance(spec, HistoryFeature):
            sample[name] = [history[-spec.longest :] for history in sample[name]]
    queries = [dict(zip(sample, each, strict=True)) for each in zip(*sample.values(), strict=True)]
    return [*experiment.examples, *queries]
