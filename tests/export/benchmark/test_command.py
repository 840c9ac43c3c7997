"""The whole command on a small bundle: what it measures, logs and shows."""

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
from twinspire.export.benchmark import command, report
from twinspire.export.benchmark.figures import MeasuredBundle
from twinspire.protos import bundle
from twinspire.protos.errors import BundleDamaged
from twinspire.protos.mlflow_keys import BUNDLE_VERSION
from twinspire.train.cli import add_experiment_command, execute
from twinspire.train.config.bench import BenchConfig
from twinspire.train.data.training_data import TrainingData, training_data_of

pytestmark = pytest.mark.exhaustive

TINY = BenchConfig(threads=(1,), batches=(1, 32), iterations=10, cell_seconds=60.0, loads=2)


@pytest.fixture
def own(made_once: Made, tmp_path: Path) -> Iterator[Made]:
    """`made_once`, with MLflow pointing at a copy of its store to write to."""
    with tracking_copy(made_once, tmp_path):
        yield made_once


def run(made: Made, only: tuple[str, ...] = tuple(command.PARTS)) -> Any:
    return command.run(measured(made, made.folder), only)


def measured(made: Made, folder: Path) -> MeasuredBundle:
    def data() -> TrainingData:
        return training_data_of(made.dataset, made.experiment.query, made.experiment.item)

    experiment = dataclasses.replace(made.experiment, bench=TINY)
    return MeasuredBundle(folder, bundle.read(folder), experiment, data)


def no_data() -> TrainingData:
    raise AssertionError("nothing but towers needs the data")


def printed(found: Any, capsys: pytest.CaptureFixture[str]) -> str:
    report.show(found, Console(width=200))
    return capsys.readouterr().out


def test_everything_is_measured_logged_and_shown(own: Made, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(own)
    metrics = found["metrics"]
    assert metrics.keys() >= {*report.MAIN}
    for name in report.MAIN:
        if name in found["intervals"]:
            low, high = found["intervals"][name]
            assert 0 < low <= metrics[name] <= high
    logged = mlflow.get_run(found["run_id"])
    assert logged.info.run_id != own.run.info.run_id
    assert logged.data.tags["twinspire.stage"] == "bench"
    assert logged.data.tags[BUNDLE_VERSION] == found["bundle_version"]
    names = {name.partition("/")[2]: value for name, value in logged.data.metrics.items()}
    assert names == pytest.approx(metrics)
    assert logged.data.metrics["retriever/load_s"] == metrics["load_s"]
    kept = mlflow.artifacts.load_dict(f"{logged.info.artifact_uri}/{command.ARTIFACT}")
    assert kept == {key: value for key, value in found.items() if key != "run_id"}
    shown = printed(found, capsys)
    for name in report.MAIN:
        assert re.search(rf"^ *{name} +[\d.,]+( µs| s)? ", shown, re.MULTILINE), name
    assert re.search(r"item +1 +32( +[\d,]+)+ +10 *\n", shown)
    remark = f"query tower (10), retriever ({found['retriever']['queries']})"
    assert f"p99 is uncertain where fewer than 1,000 calls were timed: {remark}" in shown
    assert found["machine"]["processor"] in shown


def test_a_busy_machine_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    towers = {"cells": [], "on_processor": 0.5}
    machine = {"processor": "[red]of a test", "cores": 2}
    found = {"metrics": {}, "intervals": {}, "towers": towers, "run_id": "3f", "machine": machine}
    shown = printed(found, capsys)
    assert "the machine was busy: one thread had a processor for 50% of its time" in shown
    assert "on [red]of a test, 2 cores; run 3f" in shown
    assert "busy" not in printed({**found, "towers": {**towers, "on_processor": 0.99}}, capsys)


def test_a_bundle_that_does_not_bear_it_is_named(own: Made, tmp_path: Path) -> None:
    broken = altered(own.folder, tmp_path, truncate)
    with pytest.raises(BundleDamaged) as error:
        command.run(measured(own, broken)._replace(data=no_data), ("retriever",))
    assert str(error.value).startswith(f"{broken}: the retriever cannot be measured: ")
    assert "query_tower.onnx: not an ONNX model" in str(error.value)


def test_the_command_line(own: Made, monkeypatch: Any, capsys: Any) -> None:
    (own.folder / bundle.MANIFEST).touch()  # the newest

    def call(*arguments: str) -> int:
        top = argparse.ArgumentParser()
        commands = top.add_subparsers(required=True)
        parser = add_experiment_command(commands, "bench", command.bench, report.show)
        add_options("bench", parser)
        monkeypatch.setattr(sys, "argv", ["export", "bench", "--config", str(own.config), *arguments])
        return execute(top)

    assert call("--only", "retriever", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["bundle"] == str(own.folder)
    assert document["metrics"]["load_s"] > 0
    assert "towers" not in document
    assert np.isfinite(list(document["metrics"].values())).all()
    with pytest.raises(SystemExit):
        call("--only", "everything")
