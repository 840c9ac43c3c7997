"""A run becomes a bundle.

    python -m export bundle --config train/configs/pydocs.toml

Everything is measured on what is written: the ONNX files, the vectors that they give, the index that will
be loaded. A bundle whose inputs have not changed is not made again.
"""

import dataclasses
import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.entities import Run
from rich.console import Console

from export import contents, index, per_query, quality
from export.backends import onnx_encoder
from export.catalogue import ColumnRecords, ItemTower, encode_once
from export.towers import Exporting, Served, Towers
from protos import bundle, drafts, names
from protos.errors import BundleDamaged, BundleError, MissingStage
from protos.features import TextFeature
from protos.vectors import rounded_vectors, write_vectors
from train.config import Experiment
from train.dataset import Dataset
from train.fingerprint import fingerprint, program
from train.heads import score_of
from train.model import Model, restore
from train.places import CACHE
from train.plots import save
from train.problem import Problem, problem_of, values_of

BUNDLES = CACHE / "bundles"
LOCKS = CACHE / "locks"
ENCODING = CACHE / "encoding"  # vectors of bundles that are not finished yet


def assemble(experiment: Experiment, dataset: Dataset, run: Run, console: Console) -> tuple[Path, bool]:
    """The bundle of a run, and whether it had been there already.

    Raises:
        MissingStage: the run holds no model, or was trained on other data.
        GateRefused: torch and ONNX Runtime differ by more than the tolerance.
    """
    trained_on = run.data.tags.get("dataset.fingerprint", "")
    if trained_on != dataset.report["fingerprint"]:
        raise MissingStage(
            f"run {run.info.run_id}: was trained on another state of the data ({trained_on[:12] or 'none'}, "
            f"now {dataset.report['fingerprint'][:12]}): the data, their settings, or the code or libraries "
            "that read them have changed; train again"
        )
    tag = "twinspire.bundle." + _fingerprint(experiment, run)[:12]
    with _alone(tag, console):
        # The run is read again: another process may have made the bundle meanwhile.
        known = known_bundle(mlflow.get_run(run.info.run_id), tag, console)
        if known is not None:
            return known, True
        folder = _Assembly(experiment, dataset, run, console).write()
        mlflow.MlflowClient().set_tag(run.info.run_id, tag, folder.name)
    return folder, False


def known_bundle(run: Run, tag: str, console: Console) -> Path | None:
    """The bundle whose folder a tag of a run names; None where there is no such bundle, or it is not whole.

    Args:
        tag: name of the tag. Its value comes from the tracking server, so it may be any text.
        console: is told why the bundle has to be made again.
    """
    known = run.data.tags.get(tag)
    if known is None:
        return None
    try:
        if not names.is_bundle_folder(known):
            raise BundleDamaged(f"tag {tag} of run {run.info.run_id} does not name a bundle")
        bundle.read(BUNDLES / known)
        return BUNDLES / known
    except BundleError as error:
        console.print(f"{error}; making the bundle again", highlight=False, markup=False)
        return None


@contextmanager
def _alone(tag: str, console: Console) -> Iterator[None]:
    """One process at a time makes the bundle of a tag; another one waits and then finds it made.

    The lock ends with the process, however that ends.
    """
    LOCKS.mkdir(parents=True, exist_ok=True)
    with (LOCKS / f"{tag}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print("another process is making this bundle; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fingerprint(experiment: Experiment, run: Run) -> str:
    """Everything that a bundle follows from: the run stands for its data and its towers."""
    settings = dataclasses.asdict(experiment)
    for later in ("gates", "bench"):
        del settings[later]
    return fingerprint(run.info.run_id, settings, program(__name__))


class _Assembly:
    """The making of one bundle, step by step, in a folder of its own."""

    def __init__(self, experiment: Experiment, dataset: Dataset, run: Run, console: Console) -> None:
        self.experiment = experiment
        self.dataset = dataset
        self.run = run
        self.console = console
        self.model: Model = restore(run)
        self.problem: Problem = problem_of(dataset, experiment.query, experiment.item)
        self.score = score_of(self.model.towers[0])
        self.filled = self.score.kind != "cosine"
        self.reports: dict[str, dict[str, Any]] = {}
        self.encoded: set[Path] = set()  # folders in ENCODING

    def write(self) -> Path:
        """Make everything, then put the bundle down whole."""
        with drafts.draft(BUNDLES, ".making-") as made:
            folder, scratch = made / "bundle", made / "variants"
            folder.mkdir()
            scratch.mkdir()
            manifest = self._make(folder, scratch)

            def fill(draft: Path) -> None:
                for path in folder.iterdir():
                    path.rename(draft / path.name)

            written = bundle.write(BUNDLES, manifest, fill)
        for each in self.encoded:
            shutil.rmtree(each, ignore_errors=True)
        self._log(written)
        return written

    def _make(self, folder: Path, scratch: Path) -> bundle.Manifest:
        exporting = Exporting(self.experiment, self.model, self.problem, self.filled, self.console)
        towers = exporting.into(folder, scratch)
        self.reports |= towers.reports
        for name, figure in towers.figures.items():
            save(figure, folder / bundle.REPORTS / f"{name}.png")
        evaluated, catalogue = self._vectors(towers)
        write_vectors(folder, catalogue, towers.vectors.precision, self.filled)
        parameters = self._index(towers.served["query"], catalogue, folder)
        self._quality(towers.served["query"], evaluated, parameters, folder)
        contents.write_items(self.dataset, self.problem, folder)
        self._write_reports(folder)
        return self._manifest(towers, catalogue, parameters)

    def _vectors(self, towers: Towers) -> tuple[Any, Any]:
        """Vectors (N, D) of the items as they are evaluated and as they are served, as they are read back."""
        item = towers.served["item"]
        dimension = item.onnx(item.inputs.to_arrays(self.problem.sample("item", "test", 1, 0))).shape[1]
        tower = ItemTower(item.path, item.inputs, dimension, onnx_encoder(item.path, threads=0))

        def encoded(values: Mapping[str, Sequence[Any]], title: str) -> Any:
            streamed = encode_once(ENCODING, tower, ColumnRecords(values, title), self.console, title)
            self.encoded.add(streamed.path.parent)  # outlives this process until the bundle is written
            vectors = np.load(streamed.path, mmap_mode="c")  # torch warns of what it may not write to
            return rounded_vectors(vectors, towers.vectors.precision, self.filled)

        evaluated = encoded(self.problem.items, "items as evaluated")
        if not _served_apart(self.experiment):
            return evaluated, evaluated
        values = values_of(self.dataset.items, self.experiment.item, catalogue=True)
        return evaluated, encoded(values, "items as served")

    def _asked(self, query: Served, part: str) -> Any:
        rows, _ = self.problem.parts[part].by_query()
        title = f"{part} queries"
        return quality.encode_queries(query.onnx, query.inputs, self.problem, rows, self.console, title)

    def _index(self, query: Served, catalogue: Any, folder: Path) -> bundle.IndexParameters:
        config = self.experiment.index
        made = index.make(catalogue, self._asked(query, "validation"), config, self.score, self.console)
        index.save(made.graph, folder / bundle.INDEX)
        recall = index.recall_as_served(made, catalogue, self._asked(query, "test"), config.k)
        served_text = {"searched_text": self.dataset.report["served_text"]}
        self.reports["index"] = {f"ann_recall_at_{config.k}": recall, **made.report, **served_text}
        save(made.figure, folder / bundle.REPORTS / "index.png")
        return made.parameters

    def _quality(
        self, query: Served, evaluated: Any, parameters: bundle.IndexParameters, folder: Path
    ) -> None:
        with self.console.status("quality on the test split, baselines beside it"):
            threads = self.experiment.index.threads
            graph = index.build_as(parameters, evaluated, self.score, threads)
            model = quality.Searched(query.onnx, query.inputs, evaluated, graph, parameters)
            answers = quality.ranked(self.problem, model, self.console)
            metrics = quality.evaluate(
                self.experiment, self.problem, model, self.score, self.console, answers
            )
        per_query.save(per_query.measure(self.problem, answers), folder)
        self.reports["quality"] = metrics | {"evaluated_text": self.dataset.report["evaluated_text"]}

    def _write_reports(self, folder: Path) -> None:
        for name, report in self.reports.items():
            text = json.dumps(report, indent=2, sort_keys=True)
            (folder / bundle.REPORTS / f"{name}.json").write_text(text + "\n")

    def _manifest(
        self, towers: Towers, catalogue: Any, parameters: bundle.IndexParameters
    ) -> bundle.Manifest:
        report = self.dataset.report
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
            examples=tuple(contents.examples(self.experiment, self.problem, self.model.schema)),
            quality=self.reports["quality"],
            parity=self.reports["parity"],
            ann=self.reports["index"],
            latency=self.reports["latency"],
            score=self.score,
            precision=bundle.Precisions(
                towers.served["query"].precision,
                towers.served["item"].precision,
                towers.vectors.precision,
            ),
        )

    def _log(self, folder: Path) -> None:
        """Figures and reports to the run that trained the towers."""
        client, run_id = mlflow.MlflowClient(), self.run.info.run_id
        for name, value in export_metrics(self.reports).items():
            client.log_metric(run_id, name, value)
        client.log_artifacts(run_id, str(folder / bundle.REPORTS), "export")


def export_metrics(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The figures of an export under the names that are used everywhere."""
    sides = reports["parity"].values()
    found = {"max_abs_diff": max(side["max_abs_diff"] for side in sides)}
    ann = reports["index"]
    found |= {name: ann[name] for name in ann if name.startswith("ann_recall")}
    found |= {"ef_search": ann["ef_search"], "index_build_s": ann["build_s"]}
    found |= {f"served_{k}": v for k, v in reports["quality"].items() if isinstance(v, float)}
    latencies: dict[str, float] = reports["latency"]["metrics"]
    return found | latencies


def _served_apart(experiment: Experiment) -> bool:
    """Whether the catalogue that is served is encoded from other text than the evaluated one."""
    return any(
        isinstance(spec, TextFeature) and spec.catalogue_column not in ("", spec.column)
        for spec in experiment.item.values()
    )
