"""The whole command on a small bundle, held against the run before it and against its budgets."""

import argparse
import dataclasses
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from rich.console import Console

from export.bench import budgets, command, previous, tables
from export.bench.figures import Figures
from export.bench.interval import Figure
from export.bench.subject import FILES, SIZE_SHARES, Subject, size_shares
from export.bench.towers import Forms
from protos import bundle
from protos.errors import BundleDamaged, ConfigError, GateRefused
from protos.features import Side
from protos.mlflow_names import BUNDLE_VERSION
from tests.export.altered import altered, truncate
from tests.stdlib import Made, tracking_at
from train.command import add_command, execute
from train.config.bench import BenchConfig
from train.problem import Problem, problem_of
from train.tracking import tracked

TINY = BenchConfig(
    threads=(1,),
    batches=(1, 32),
    iterations=10,
    fewest=10,
    cell_seconds=0.1,
    compiled=False,
    loads=2,
    build_items=100,
    build_rounds=2,
)


@pytest.fixture
def own(made_once: Made, tmp_path: Path) -> Iterator[Made]:
    """`made_once`, with MLflow pointing at a copy of its store to write to."""
    with tracking_at(f"sqlite:///{shutil.copy(made_once.uri.removeprefix('sqlite:///'), tmp_path)}"):
        yield made_once


def run(made: Made, output: Path, config: BenchConfig = TINY, only: tuple[str, ...] = command.PARTS) -> Any:
    def problem() -> Problem:
        return problem_of(made.dataset, made.experiment.query, made.experiment.item)

    return command.run(made.experiment, config, subject_at(made.folder), problem, only, output)


def subject_at(folder: Path) -> Subject:
    return Subject(folder, bundle.read(folder))


def no_problem() -> Problem:
    raise AssertionError("nothing but towers needs the data")


def test_everything_is_measured_written_logged_and_compared(
    own: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(own, tmp_path / "first")
    metrics = found["metrics"]
    assert found["previous"] is None
    assert found["torch_over_onnx_b1"] == metrics["torch_over_onnx_b1"] > 0
    assert 0 < found["chosen_size_share"] == metrics["chosen_size_share"] <= 1
    for name in ("retriever_share_b1", "retriever_share_b32", "build_over_bare", "load_s"):
        low, high = found["intervals"][name]
        assert 0 < low <= found[name] <= high
    for name in ("query_tower_fp32_b1_p50_us", "exported_over_fp32_b1", "item_tower_long_b32_p99_us"):
        assert metrics[name] > 0
    assert found["towers"]["skipped"] == {"compiled": "bench.compiled is false"}
    assert {cell["kind"] for cell in found["towers"]["cells"]} == {"as_is", "short", "long"}
    folder = tmp_path / "first"
    names = {"latency.json", "report.md", "latency.png", "retriever.png", "index.png"}
    assert {path.name for path in folder.iterdir()} == names
    written = json.loads((folder / "latency.json").read_text())
    assert written == {k: v for k, v in found.items() if k not in ("report", "run_id")}
    page = (folder / "report.md").read_text()
    for part in (
        found["machine"]["processor"],
        found["versions"]["onnxruntime"],
        found["bundle_version"][:12],
        "| `torch_over_onnx_b1` |",
        "### Query tower, 1 thread",
        "whole retriever",
        *(f"]({name})" for name in names if name.endswith(".png")),
    ):
        assert part in page
    tracked_run = mlflow.get_run(found["run_id"])
    assert tracked_run.info.run_id != own.run.info.run_id
    assert tracked_run.data.tags["twinspire.stage"] == "bench"
    assert tracked_run.data.tags[BUNDLE_VERSION] == found["bundle_version"]
    assert tracked_run.data.metrics == pytest.approx(metrics)
    held = mlflow.MlflowClient().list_artifacts(found["run_id"], "bench")
    assert {Path(each.path).name for each in held} == names
    tables.show(found, Console(width=200))
    told = capsys.readouterr().out
    assert "torch_over_onnx_b1" in told
    assert re.search(r"item +1 +long +32( +[\d,]+)+ +10 *\n", told)
    again = run(own, tmp_path / "second", only=("index",))
    assert again["previous"]["run_id"] == found["run_id"]
    change = again["previous"]["changes"]["build_over_bare"]
    expected = 100 * (again["build_over_bare"] / found["build_over_bare"] - 1)
    assert change["percent"] == pytest.approx(expected)
    assert f"{change['percent']:+.1f} %" in (tmp_path / "second" / "report.md").read_text()


def test_histories_of_set_lengths_are_measured_where_queries_have_them(
    films_made: Made, tmp_path: Path
) -> None:
    store = shutil.copy(films_made.uri.removeprefix("sqlite:///"), tmp_path)
    with tracking_at(f"sqlite:///{store}"):
        found = run(films_made, tmp_path / "out", only=("towers", "retriever"))
    cells = {(cell["side"], cell["kind"]) for cell in found["towers"]["cells"]}
    assert {kind for side, kind in cells if side == "query"} == {"as_is", "history_5", "history_20"}
    assert {kind for side, kind in cells if side == "item"} == {"as_is", "short", "long"}
    metrics = found["metrics"]
    ratio = metrics["torch_b1_p50_us"] / metrics["query_tower_b1_p50_us"]
    assert found["torch_over_onnx_b1"] == pytest.approx(ratio)  # without a text, of real records
    assert found["retriever_share_b1"] > 0
    assert "histories of 20" in (tmp_path / "out" / "report.md").read_text()


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
    assert "**Over budget.**" in (tmp_path / "report.md").read_text()
    assert "over budget: build_over_bare is" in capsys.readouterr().err
    (newest,) = mlflow.search_runs(
        experiment_names=[own.experiment.name],
        filter_string="tags.`twinspire.stage` = 'bench'",
        output_format="list",
    )
    assert newest.data.metrics["build_over_bare"] == document["build_over_bare"]


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
    metrics = {"load_s": 2.0, "torch_over_onnx_b1": 4.0, "retriever_share_b1": 1.2}
    bounds = {"load_s": 2.0, "torch_over_onnx_b1": 4.5, "retriever_share_b1": 1.15, "torch_b1_p50_us": 1.0}
    judged = {each.name: each for each in budgets.judge(bounds, metrics, ())}
    assert [each.holds for each in judged.values()] == [True, False, False, False]
    assert judged["torch_over_onnx_b1"].text() == "torch_over_onnx_b1 is 4.00, its budget at least 4.50"
    assert judged["retriever_share_b1"].text() == "retriever_share_b1 is 1.20, its budget at most 1.15"
    assert judged["torch_b1_p50_us"].text() == "torch_b1_p50_us was not measured (budget 1.00 µs)"
    assert len(budgets.judge(bounds, metrics, {"torch_b1_p50_us"})) == 3
    assert [budgets.unit(n) for n in ("a_us", "a_ms", "load_s", "x_over_y", "b_share_b1")] == [
        "µs",
        "ms",
        "s",
        "",
        "",
    ]
    assert [budgets.unit(n) for n in ("records_per_s", "iterations")] == [None, None]


def test_a_change_is_sure_where_the_intervals_do_not_meet() -> None:
    now = Figures()
    now.add("load_s", Figure(1.0, 0.9, 1.1))
    now.add("build_s", Figure(1.0, 0.9, 1.1))
    now.add("torch_over_onnx_b1", Figure(4.0, 3.9, 4.1))
    now.metrics["chosen_size_share"] = 0.5
    before: dict[str, Any] = {
        "metrics": {
            "load_s": 2.0,
            "build_s": 1.25,
            "chosen_size_share": 1.0,
            "torch_over_onnx_b1": 5.0,
            "gone_us": 3.0,
        },
        "intervals": {"load_s": [1.5, 2.5], "build_s": [1.05, 1.5], "torch_over_onnx_b1": [4.9, 5.1]},
    }
    names = ("load_s", "build_s", "chosen_size_share", "torch_over_onnx_b1", "gone_us", "new_us")
    found = previous.changes(now, before, names, busy=False)
    assert {name: (round(each.percent), each.sure) for name, each in found.items()} == {
        "load_s": (-50, True),
        "build_s": (-20, False),
        "chosen_size_share": (-50, False),
        "torch_over_onnx_b1": (-20, True),
    }
    found = previous.changes(now, before, names, busy=True)  # others disturb times more than ratios
    assert (found["load_s"].sure, found["torch_over_onnx_b1"].sure) == (False, True)


def test_the_run_before_is_of_the_same_name_and_machine(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert previous.find("shop", "shop") is None
    (tmp_path / previous.DOCUMENT).write_text('{"metrics": {"load_s": 2.0}}')
    ids = []
    for _ in range(2):
        with tracked("shop", previous.STAGE, previous.subject("shop")) as run_id:
            mlflow.log_artifact(str(tmp_path / previous.DOCUMENT), previous.ARTIFACTS)
        ids.append(run_id)
    found = previous.find("shop", "shop")
    assert found == {"metrics": {"load_s": 2.0}, "run_id": ids[-1]}
    assert previous.find("shop", "another") is None
    with tracked("shop", previous.STAGE, previous.subject("shop")):
        pass  # one that holds no document
    assert previous.find("shop", "shop") is None
    elsewhere = {"processor": "another", "cores": 64, "system": "Linux"}
    monkeypatch.setattr(previous, "machine", lambda: elsewhere)
    assert previous.find("shop", "shop") is None


def test_a_bundle_that_does_not_bear_it_is_named(own: Made, tmp_path: Path) -> None:
    broken = altered(own.folder, tmp_path, truncate)
    with pytest.raises(BundleDamaged) as error:
        command.run(own.experiment, TINY, subject_at(broken), no_problem, ("retriever",), tmp_path / "out")
    assert str(error.value).startswith(f"{broken}: the retriever ended with 1: ")
    assert "query_tower.onnx: not an ONNX model" in str(error.value)


def test_what_is_served_is_compared_with_float32(own: Made, tmp_path: Path) -> None:
    forms: Any = {}
    factors: dict[Side, int] = {"query": 2, "item": 4}
    for side, factor in factors.items():
        served, plain = own.folder / FILES[side], tmp_path / f"{side}.onnx"
        plain.write_bytes(served.read_bytes() * factor)
        inputs = bundle.read(own.folder).schema.side(side)
        tower: Any = torch.nn.Identity()
        forms[side] = Forms(inputs, tower, {"served": served, "fp32": plain}, {})
    assert size_shares(forms) == {"chosen_size_share": 0.5, "item_chosen_size_share": 0.25}
    names = command._names(subject_at(own.folder), TINY)["towers"]
    wanted = {"query_tower_int8_tables_b1_p50_us", "item_tower_served_b1_p50_us", "query_tower_b1_p50_us"}
    assert wanted | set(SIZE_SHARES.values()) <= names


def test_the_command_line(own: Made, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    (own.folder / bundle.MANIFEST).touch()  # the newest

    def call(*arguments: str) -> int:
        top = argparse.ArgumentParser()
        parser = add_command(top.add_subparsers(required=True), "bench", command.bench, tables.show)
        parser.add_argument("--bundle", type=Path)
        command.add_options(parser)
        monkeypatch.setattr(sys, "argv", ["export", "bench", "--config", str(own.config), *arguments])
        return execute(top)

    assert call("--only", "index", "--output", str(tmp_path / "out"), "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["bundle"] == str(own.folder)
    assert document["report"] == str(tmp_path / "out" / "report.md")
    assert document["build_over_bare"] > 0
    assert {"towers", "retriever"}.isdisjoint(document)
    assert np.isfinite(list(document["metrics"].values())).all()
    with pytest.raises(SystemExit):
        call("--only", "everything")
