"""A run becomes a bundle.

    python -m export bundle --config train/configs/pydocs.toml

Everything is measured on what is written: the ONNX files, the vectors that they give, the index that will
be loaded. A bundle whose inputs have not changed is not made again.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import polars as pl
from mlflow.entities import Run
from rich.console import Console

from export import graph, index, parity, per_query, plots, quality
from export.backends import Encode, onnx_encoder, torch_encoder
from export.bench.quick import benchmark
from export.catalogue import ColumnRecords, ItemTower, encode_once
from protos import bundle
from protos.errors import BundleError, MissingStage
from protos.features import HistoryFeature, Side, TextFeature, TowerInputs
from train.config import Experiment
from train.dataset import Dataset
from train.fingerprint import fingerprint, source_code
from train.heads import score_of
from train.model import Model, restore
from train.places import CACHE
from train.plots import save
from train.problem import Problem, problem_of, values_of
from train.towers import Tower

BUNDLES = CACHE / "bundles"
ENCODING = CACHE / "encoding"  # vectors of bundles that are not finished yet
SIDES: tuple[Side, Side] = ("query", "item")
SAMPLE = 500  # records that parity and latency are measured on
EXAMPLES = 200  # test queries that travel with the bundle


@dataclass(frozen=True)
class Exported:
    """One tower in both forms."""

    side: Side
    inputs: TowerInputs
    tower: Tower
    onnx: Encode


def assemble(experiment: Experiment, dataset: Dataset, run: Run, console: Console) -> tuple[Path, bool]:
    """The bundle of a run, and whether it had been there already.

    Raises:
        MissingStage: the run holds no model, or was trained on other data.
        GateRefused: torch and ONNX Runtime differ by more than the tolerance.
    """
    if run.data.tags.get("dataset.fingerprint") != dataset.report["fingerprint"]:
        raise MissingStage(f"run {run.info.run_id}: was trained on another state of the data; train again")
    tag = "twinspire.bundle." + _fingerprint(experiment, run)[:12]
    known = run.data.tags.get(tag)
    if known:
        folder = BUNDLES / known
        try:
            bundle.read(folder)
            return folder, True
        except BundleError:
            console.print(f"bundle {known} is missing or damaged; making it again")
    folder = _Assembly(experiment, dataset, run, console).write()
    mlflow.MlflowClient().set_tag(run.info.run_id, tag, folder.name)
    return folder, False


def _fingerprint(experiment: Experiment, run: Run) -> str:
    return fingerprint(
        run.info.run_id,
        experiment.export,
        experiment.index,
        list(experiment.examples),
        source_code("export", "export/bench", "export/catalogue", "protos"),
    )


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
        self.reports: dict[str, dict[str, Any]] = {}
        self.encoded: set[Path] = set()  # folders in ENCODING

    def write(self) -> Path:
        """Make everything, then put the bundle down whole."""
        BUNDLES.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".making-", dir=BUNDLES) as name:
            folder = Path(name)
            manifest = self._make(folder)

            def fill(draft: Path) -> None:
                for path in folder.iterdir():
                    path.rename(draft / path.name)

            written = bundle.write(BUNDLES, manifest, fill)
        for each in self.encoded:
            shutil.rmtree(each, ignore_errors=True)
        self._log(written)
        return written

    def _make(self, folder: Path) -> bundle.Manifest:
        towers = {side: self._export(side, folder) for side in SIDES}
        self.reports["parity"] = {side: self._parity(tower) for side, tower in towers.items()}
        self._latency(towers, folder)
        path, inputs = folder / bundle.ITEM_TOWER, towers["item"].inputs
        dimension = towers["item"].onnx(inputs.to_arrays(self._sample("item", 1))).shape[1]
        tower = ItemTower(path, inputs, dimension, onnx_encoder(path, threads=0))
        evaluated = self._encoded(tower, self.problem.items, "items as evaluated")
        catalogue = evaluated
        if _served_apart(self.experiment):
            values = values_of(self.dataset.items, self.experiment.item, catalogue=True)
            catalogue = self._encoded(tower, values, "items as served")
        ef_search = self._index(towers["query"], catalogue, folder)
        self._quality(towers["query"], evaluated, ef_search, folder)
        np.save(folder / bundle.VECTORS, catalogue)
        self._items(folder)
        self._write_reports(folder)
        return self._manifest(catalogue, ef_search)

    def _encoded(self, tower: ItemTower, values: Mapping[str, Sequence[Any]], title: str) -> Any:
        """Vectors (N, D), in a file that outlives this process until the bundle is written."""
        streamed = encode_once(ENCODING, tower, ColumnRecords(values, title), self.console, title)
        self.encoded.add(streamed.path.parent)
        return np.load(streamed.path, mmap_mode="c")  # torch warns of what it may not write to

    def _export(self, side: Side, folder: Path) -> Exported:
        tower = graph.frozen(self.model.towers[SIDES.index(side)])
        inputs = self.model.schema.side(side)
        path = folder / (bundle.QUERY_TOWER if side == "query" else bundle.ITEM_TOWER)
        with self.console.status(f"exporting the {side} tower"):
            one = self._sample(side, 1)
            example = inputs.to_arrays({name: value * 2 for name, value in one.items()})
            nodes = graph.export_tower(tower, inputs.features, example, path)
        size = path.stat().st_size / 2**20
        self.console.print(f"{side} tower: {nodes} nodes, {size:.1f} MiB", highlight=False)
        return Exported(side, inputs, tower, onnx_encoder(path, self.experiment.export.threads))

    def _sample(self, side: Side, count: int) -> dict[str, list[Any]]:
        return self.problem.sample(side, "test", count, seed=0)

    def _parity(self, tower: Exported) -> dict[str, Any]:
        with self.console.status(f"parity of the {tower.side} tower"):
            return parity.check(
                tower.side,
                tower.inputs,
                tower.onnx,
                torch_encoder(tower.tower),
                self._sample(tower.side, SAMPLE),
                self.experiment.export.parity_tolerance,
            )

    def _latency(self, towers: Mapping[Side, Exported], folder: Path) -> None:
        with self.console.status("latency of both towers"):
            report, figure = benchmark(
                {side: (tower.inputs, tower.tower, tower.onnx) for side, tower in towers.items()},
                {side: self._sample(side, SAMPLE) for side in SIDES},
                self.experiment,
            )
        self.reports["latency"] = report
        save(figure, folder / bundle.REPORTS / "latency.png")

    def _asked(self, query: Exported, part: str) -> Any:
        rows, _ = self.problem.parts[part].by_query()
        title = f"{part} queries"
        return quality.encode_queries(query.onnx, query.inputs, self.problem, rows, self.console, title)

    def _index(self, query: Exported, catalogue: Any, folder: Path) -> int:
        config = self.experiment.index
        with self.console.status(f"HNSW over {len(catalogue):,} items"):
            begun = time.perf_counter()
            graph_ = index.build(catalogue, config, self.score)
            seconds = time.perf_counter() - begun
            index.save(graph_, folder / bundle.INDEX)
        tuned = index.tune(graph_, catalogue, self._asked(query, "validation"), config)
        if not tuned.reached:
            self.console.print(
                f"index: no ef_search up to {tuned.ef_search} is sure to reach {config.recall_target}; "
                "a larger m or ef_construction in [index] may"
            )
        asked = self._asked(query, "test")
        found = index.approximate(graph_, asked, config.k, tuned.ef_search)
        recall = float(index.recalls(found, catalogue, asked, config.k).mean())
        self.reports["index"] = {
            f"ann_recall_at_{config.k}": recall,
            "target": config.recall_target,
            "ef_search": tuned.ef_search,
            "reached": tuned.reached,
            "build_s": seconds,
            "searched_text": self.dataset.report["served_text"],
            "curve": list(tuned.curve),
        }
        figure = plots.recall_and_cost(tuned.curve, tuned.ef_search, config.recall_target)
        save(figure, folder / bundle.REPORTS / "index.png")
        return tuned.ef_search

    def _quality(self, query: Exported, evaluated: Any, ef_search: int, folder: Path) -> None:
        with self.console.status("quality on the test split, baselines beside it"):
            searched = index.build(evaluated, self.experiment.index, self.score)
            model = quality.Searched(query.onnx, query.inputs, evaluated, searched, ef_search)
            answers = quality.ranked(self.problem, model, self.console)
            metrics = quality.evaluate(
                self.experiment, self.problem, model, self.score, self.console, answers
            )
        per_query.save(per_query.measure(self.problem, answers), folder)
        self.reports["quality"] = metrics | {"evaluated_text": self.dataset.report["evaluated_text"]}

    def _items(self, folder: Path) -> None:
        items = self.dataset.items
        display = self.dataset.report["display"]
        fields = {name: [_shown(value) for value in items[name]] for name in display}
        counts = self.problem.counts()
        popularity = (counts / max(1, counts.sum())).tolist()
        content = {"ids": items["item_id"].to_list(), "popularity": popularity, "fields": fields}
        (folder / bundle.ITEMS).write_text(json.dumps(content, ensure_ascii=False))

    def _write_reports(self, folder: Path) -> None:
        for name, report in self.reports.items():
            text = json.dumps(report, indent=2, sort_keys=True)
            (folder / bundle.REPORTS / f"{name}.json").write_text(text + "\n")

    def _examples(self) -> list[dict[str, Any]]:
        """The queries that the experiment names, then some of the test split."""
        drawn = self._sample("query", EXAMPLES)
        for name, spec in self.model.schema.query.items():
            if isinstance(spec, HistoryFeature):
                drawn[name] = [history[-spec.max_length :] for history in drawn[name]]
        sampled = [dict(zip(drawn, each, strict=True)) for each in zip(*drawn.values(), strict=True)]
        return [*self.experiment.examples, *sampled]

    def _manifest(self, catalogue: Any, ef_search: int) -> bundle.Manifest:
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
            index=index.parameters(self.experiment.index, ef_search),
            display_fields=tuple(report["display"]),
            examples=tuple(self._examples()),
            quality=self.reports["quality"],
            parity=self.reports["parity"],
            ann=self.reports["index"],
            latency=self.reports["latency"],
            score=self.score,
        )

    def _log(self, folder: Path) -> None:
        """Figures and reports to the run that trained the towers."""
        client, run_id = mlflow.MlflowClient(), self.run.info.run_id
        for name, value in export_metrics(self.reports).items():
            client.log_metric(run_id, name, value)
        client.log_artifacts(run_id, str(folder / bundle.REPORTS), "export")


def _shown(value: Any) -> str | None:
    """A display field as an answer shows it."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, pl.Series):
        return ", ".join(map(str, value))
    return None if value is None else str(value)


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
