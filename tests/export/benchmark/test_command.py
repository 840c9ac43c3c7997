"""The whole command on a small bundle, held against the run before it and against its budgets."""

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from rich.console import Console

from tests.helpers.altered import altered, truncate
from tests.helpers.stdlib import Made, tracking_copy
from twinspire.export.arguments import add_options
from twinspire.export.benchmark import command, comparison, figures, report
from twinspire.export.benchmark.estimate import Estimate
from twinspire.export.benchmark.figures import Figures, MeasuredBundle
from twinspire.export.benchmark.report_writer import value
from twinspire.protos import bundle
from twinspire.protos.bundle import IndexParameters
from twinspire.protos.cli import UsageError
from twinspire.protos.errors import BundleDamaged, ConfigError, GateRefused
from twinspire.protos.mlflow_keys import BUNDLE_VERSION
from twinspire.train.cli import add_experiment_command, execute
from twinspire.train.config.bench import BenchConfig
from twinspire.train.data.training_data import TrainingData, training_data_of
from twinspire.train.training.tracking import tracked_run

pytestmark = pytest.mark.exhaustive

TINY = BenchConfig(
    threads=(1,),
    batches=(1, 32),
    iterations=10,
    cell_seconds=60.0,
    loads=2,
    build_items=100,
    build_rounds=2,
)


@pytest.fixture
def own(made_once: Made, tmp_path: Path) -> Iterator[Made]:
    """`made_once`, with MLflow pointing at a copy of its store to write to."""
    with tracking_copy(made_once, tmp_path):
        yield made_once


def run(
    made: Made, output: Path, config: BenchConfig = TINY, only: tuple[str, ...] = tuple(command.PARTS)
) -> Any:
    return command.run(measured(made, made.folder, config), only, output)


def measured(made: Made, folder: Path, config: BenchConfig = TINY) -> MeasuredBundle:
    def data() -> TrainingData:
        return training_data_of(made.dataset, made.experiment.query, made.experiment.item)

    return MeasuredBundle(
        folder, bundle.read(folder), dataclasses.replace(made.experiment, bench=config), data
    )


def no_data() -> TrainingData:
    raise AssertionError("nothing but towers needs the data")


def test_the_part_beside_hnswlib_refuses_an_index_of_another_kind(made_once: Made, tmp_path: Path) -> None:
    manifest = bundle.read_manifest(made_once.folder)
    remote = dataclasses.replace(manifest, index=IndexParameters(kind="remote"))
    other = measured(made_once, made_once.folder)._replace(manifest=remote, data=no_data)
    with pytest.raises(UsageError, match=r"index is of kind 'remote'.*--only towers retriever") as raised:
        command.run(other, ("towers", "index"), tmp_path / "no")
    told = re.search(r"The export has measured the index: (.+)$", str(raised.value))
    assert told is not None
    assert json.loads(Path(told[1]).read_text())["ef_search"] > 0


def test_everything_is_measured_written_logged_and_compared(
    own: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(own, tmp_path / "first")
    metrics = found["metrics"]
    assert found["previous"] is None
    assert metrics["torch_over_onnx_b1"] > 0
    assert found["main"] == list(report.MAIN) and set(found).isdisjoint(report.MAIN)
    for name in ("retriever_b1_p50_us", "retriever_b1_p99_us", "build_over_bare", "load_s"):
        low, high = found["intervals"][name]
        assert 0 < low <= metrics[name] <= high
    for name in ("query_tower_b1_p50_us", "item_tower_long_b32_p99_us"):
        assert metrics[name] > 0
    assert {cell["kind"] for cell in found["towers"]["cells"]} == {"as_is", "short", "long"}
    folder = tmp_path / "first"
    names = {"latency.json", "report.md", "index.png"}
    assert {path.name for path in folder.iterdir()} == names
    written = json.loads((folder / "latency.json").read_text())
    assert written == {k: v for k, v in found.items() if k not in ("report", "run_id")}
    page = re.sub(" +", " ", (folder / "report.md").read_text())
    for part in (
        found["machine"]["processor"],
        found["versions"]["onnxruntime"],
        found["bundle_version"][:12],
        "| `torch_over_onnx_b1` |",
        "## Towers",
        "| query | 1 | short | 32 |",
        "one at a time, k = 10, one thread.",
        "| `start_s` |",
        *(f"]({name})" for name in names if name.endswith(".png")),
    ):
        assert part in page
    for cell in found["towers"]["cells"]:  # a wrong path would leave a column empty
        assert [column.head for column in report.CASES if value(cell, column.path) is None] == []
    remark = f"query tower (10), retriever ({found['retriever']['queries']})"
    assert f"p99 is uncertain where fewer than 1,000 calls were timed: {remark}" in page.replace("\\", "")
    tracked_run = mlflow.get_run(found["run_id"])
    assert tracked_run.info.run_id != own.run.info.run_id
    assert tracked_run.data.tags["twinspire.stage"] == "bench"
    assert tracked_run.data.tags[BUNDLE_VERSION] == found["bundle_version"]
    logged = {name.partition("/")[2]: value for name, value in tracked_run.data.metrics.items()}
    assert logged == pytest.approx(metrics)
    assert {name.partition("/")[0] for name in tracked_run.data.metrics} == {"towers", "retriever", "index"}
    assert tracked_run.data.metrics["index/build_s"] == metrics["build_s"]
    held = mlflow.MlflowClient().list_artifacts(found["run_id"], "bench")
    assert {Path(each.path).name for each in held} == names
    report.show(found, Console(width=200))
    told = capsys.readouterr().out
    assert "torch_over_onnx_b1" in told
    assert re.search(r"item +1 +long +32( +[\d,]+)+ +10 *\n", told)
    again = run(own, tmp_path / "second", only=("index",))
    assert again["previous"]["run_id"] == found["run_id"]
    change = again["previous"]["changes"]["build_over_bare"]
    expected = 100 * (again["metrics"]["build_over_bare"] / metrics["build_over_bare"] - 1)
    assert change["percent"] == pytest.approx(expected)
    assert f"{change['percent']:+.1f} %" in (tmp_path / "second" / "report.md").read_text()


def test_histories_of_set_lengths_are_measured_where_queries_have_them(
    films_made: Made, tmp_path: Path
) -> None:
    with tracking_copy(films_made, tmp_path):
        found = run(films_made, tmp_path / "out", only=("towers", "retriever"))
    cells = {(cell["side"], cell["kind"]) for cell in found["towers"]["cells"]}
    assert {kind for side, kind in cells if side == "query"} == {"as_is", "history_5", "history_20"}
    assert {kind for side, kind in cells if side == "item"} == {"as_is", "short", "long"}
    metrics = found["metrics"]
    ratio = metrics["torch_b1_p50_us"] / metrics["query_tower_b1_p50_us"]
    assert metrics["torch_over_onnx_b1"] == pytest.approx(ratio)  # without a text, of real records
    assert metrics["retriever_b1_p99_us"] >= metrics["retriever_b1_p50_us"] > 0
    assert "| query | 1 | history 20 | 32 |" in re.sub(
        " +", " ", (tmp_path / "out" / "report.md").read_text()
    )


def test_a_broken_budget_fails_once_all_is_written(
    own: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bounds = {"build_over_bare": 1e-6, "build_s": 1e6, "retriever_b1_p99_us": 1.0}
    with pytest.raises(GateRefused) as error:
        run(own, tmp_path, dataclasses.replace(TINY, budgets=bounds), ("index",))
    assert "build_over_bare is" in str(error.value)
    assert "its budget at most 0.000" in str(error.value)
    assert "retriever" not in str(error.value)  # it was left out on purpose
    document = json.loads((tmp_path / "latency.json").read_text())
    assert {each["name"]: each["holds"] for each in document["budgets"]} == {
        "build_over_bare": False,
        "build_s": True,
    }
    assert "- over budget: build_over_bare is" in (tmp_path / "report.md").read_text()
    assert "over budget: build_over_bare is" in capsys.readouterr().err
    (newest,) = mlflow.search_runs(
        experiment_names=[own.experiment.name],
        filter_string="tags.`twinspire.stage` = 'bench'",
        output_format="list",
    )
    assert newest.data.metrics["index/build_over_bare"] == document["metrics"]["build_over_bare"]


def test_a_budget_of_no_figure_is_refused_before_anything_is_measured(own: Made, tmp_path: Path) -> None:
    for name, close in (("query_tower_b1_p9_us", "query_tower_b1_p99_us"), ("loads", "load_s")):
        config = dataclasses.replace(TINY, budgets={name: 1.0})
        with pytest.raises(ConfigError) as error:
            run(own, tmp_path / "never", config)
        assert str(error.value).startswith(f"bench.budgets.{name}: expected a time or ratio of this bench")
        assert close in str(error.value)
    rate = dataclasses.replace(TINY, budgets={"query_tower_b1_records_per_s": 1.0})
    with pytest.raises(ConfigError, match="expected a time or ratio"):
        run(own, tmp_path / "never", rate)
    assert not (tmp_path / "never").exists()


def test_budgets_bound_times_from_above_and_gains_from_below() -> None:
    metrics = {"load_s": 2.0, "torch_over_onnx_b1": 4.0, "build_over_bare": 1.2}
    bounds = {"load_s": 2.0, "torch_over_onnx_b1": 4.5, "build_over_bare": 1.15, "torch_b1_p50_us": 1.0}
    judged = {each.name: each for each in comparison.judge(bounds, metrics, ())}
    assert [each.holds for each in judged.values()] == [True, False, False, False]
    assert judged["torch_over_onnx_b1"].text == "torch_over_onnx_b1 is 4.00, its budget at least 4.50"
    assert judged["build_over_bare"].text == "build_over_bare is 1.20, its budget at most 1.15"
    assert judged["torch_b1_p50_us"].text == "torch_b1_p50_us was not measured (budget 1.00 µs)"
    assert len(comparison.judge(bounds, metrics, {"torch_b1_p50_us"})) == 3
    assert [figures.unit(n) for n in ("a_us", "a_ms", "load_s", "x_over_y")] == [
        "µs",
        "ms",
        "s",
        "",
    ]
    assert [figures.unit(n) for n in ("records_per_s", "iterations")] == [None, None]


def test_a_change_is_apart_where_the_intervals_do_not_overlap() -> None:
    now = Figures()
    now.add("load_s", Estimate(1.0, 0.9, 1.1))
    now.add("build_s", Estimate(1.0, 0.9, 1.1))
    now.add("torch_over_onnx_b1", Estimate(4.0, 3.9, 4.1))
    now.metrics["build_over_bare"] = 0.5
    before: dict[str, Any] = {
        "metrics": {
            "load_s": 2.0,
            "build_s": 1.25,
            "build_over_bare": 1.0,
            "torch_over_onnx_b1": 5.0,
            "gone_us": 3.0,
        },
        "intervals": {"load_s": [1.5, 2.5], "build_s": [1.05, 1.5], "torch_over_onnx_b1": [4.9, 5.1]},
    }
    names = ("load_s", "build_s", "build_over_bare", "torch_over_onnx_b1", "gone_us", "new_us")
    found = comparison.changes(now, before, names, busy=False)
    assert {name: (round(each["percent"]), each["apart"]) for name, each in found.items()} == {
        "load_s": (-50, True),
        "build_s": (-20, False),
        "build_over_bare": (-50, False),
        "torch_over_onnx_b1": (-20, True),
    }
    found = comparison.changes(now, before, names, busy=True)  # others disturb times more than ratios
    assert (found["load_s"]["apart"], found["torch_over_onnx_b1"]["apart"]) == (False, True)


def test_the_run_before_is_of_the_same_name_and_machine(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert comparison.find("shop", "shop") is None
    (tmp_path / comparison.DOCUMENT).write_text('{"metrics": {"load_s": 2.0}}')
    ids = []
    for _ in range(2):
        with tracked_run("shop", comparison.STAGE, comparison.comparison_key("shop")) as run_id:
            mlflow.log_artifact(str(tmp_path / comparison.DOCUMENT), comparison.ARTIFACTS)
        ids.append(run_id)
    found = comparison.find("shop", "shop")
    assert found == {"metrics": {"load_s": 2.0}, "run_id": ids[-1]}
    assert comparison.find("shop", "another") is None
    with tracked_run("shop", comparison.STAGE, comparison.comparison_key("shop")):
        pass  # one that holds no document
    assert comparison.find("shop", "shop") is None
    elsewhere = {"processor": "another", "cores": 64, "system": "Linux"}
    monkeypatch.setattr(comparison, "machine", lambda: elsewhere)
    assert comparison.find("shop", "shop") is None


def test_a_bundle_that_does_not_bear_it_is_named(own: Made, tmp_path: Path) -> None:
    broken = altered(own.folder, tmp_path, truncate)
    with pytest.raises(BundleDamaged) as error:
        command.run(measured(own, broken)._replace(data=no_data), ("retriever",), tmp_path / "out")
    assert str(error.value).startswith(f"{broken}: the retriever cannot be measured: ")
    assert "query_tower.onnx: not an ONNX model" in str(error.value)


def test_the_command_line(own: Made, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    (own.folder / bundle.MANIFEST).touch()  # the newest

    def call(*arguments: str) -> int:
        top = argparse.ArgumentParser()
        commands = top.add_subparsers(required=True)
        parser = add_experiment_command(commands, "bench", command.bench, report.show)
        add_options("bench", parser)
        monkeypatch.setattr(sys, "argv", ["export", "bench", "--config", str(own.config), *arguments])
        return execute(top)

    assert call("--only", "index", "--output", str(tmp_path / "out"), "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["bundle"] == str(own.folder)
    assert document["report"] == str(tmp_path / "out" / "report.md")
    assert document["metrics"]["build_over_bare"] > 0
    assert {"towers", "retriever"}.isdisjoint(document)
    assert np.isfinite(list(document["metrics"].values())).all()
    with pytest.raises(SystemExit):
        call("--only", "everything")
