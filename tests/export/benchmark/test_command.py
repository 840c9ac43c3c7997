"""The whole command on a small bundle: what it measures, logs and shows."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from rich.console import Console

from tests.helpers.altered import altered, truncate
from tests.helpers.stdlib import Made, tracking_copy
from twinspire.export.benchmark import command
from twinspire.export.terminal import BENCH_LINES, show_bench
from twinspire.protos import bundle
from twinspire.protos.errors import BundleDamaged
from twinspire.protos.mlflow_keys import BUNDLE_VERSION
from twinspire.train.config.bundle import ExportConfig
from twinspire.train.data.training_data import training_data_of

pytestmark = pytest.mark.exhaustive


@pytest.fixture
def own(made_once: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    """`made_once`, with MLflow pointing at a copy of its store to write to."""
    monkeypatch.setattr(command, "LOADS", 2)
    with tracking_copy(made_once, tmp_path):
        yield made_once


def run(made: Made, folder: Path) -> Any:
    experiment = dataclasses.replace(made.experiment, export=ExportConfig(iterations=10))
    data = training_data_of(made.dataset, experiment.query, experiment.item)
    return command.run(folder, bundle.read_manifest(folder), experiment, data)


def printed(found: Any, capsys: pytest.CaptureFixture[str]) -> str:
    show_bench(found, Console(width=200))
    return capsys.readouterr().out


def test_everything_is_measured_logged_and_shown(own: Made, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(own, own.folder)
    metrics = found["metrics"]
    assert metrics.keys() >= {*BENCH_LINES, "query_tower_b1_p50_us", "torch_over_onnx_b1"}
    for name, (low, high) in found["intervals"].items():
        assert 0 < low <= metrics[name] <= high
    logged = mlflow.get_run(found["run_id"])
    assert logged.info.run_id != own.run.info.run_id
    assert logged.data.tags["twinspire.stage"] == "bench"
    assert logged.data.tags[BUNDLE_VERSION] == found["bundle_version"]
    names = {name.partition("/")[2]: value for name, value in logged.data.metrics.items()}
    assert names == pytest.approx(metrics)
    kept = mlflow.artifacts.load_dict(f"{logged.info.artifact_uri}/{command.ARTIFACT}")
    assert kept == {key: value for key, value in found.items() if key != "run_id"}
    shown = printed(found, capsys)
    for text in BENCH_LINES.values():
        assert re.search(rf"^{text}: [\d.,]+ \([\d.,]+ to [\d.,]+\)$", shown, re.MULTILINE), text
    assert re.search(r"item tower, batch 32( +[\d,.]+)+ *\n", shown)
    remark = f"query tower (10), retriever ({found['retriever']['queries']})"
    assert f"p99 is uncertain where fewer than 1,000 calls were timed: {remark}" in shown
    assert found["machine"]["processor"] in shown


def test_a_bundle_that_does_not_bear_it_is_named(own: Made, tmp_path: Path) -> None:
    broken = altered(own.folder, tmp_path, truncate)
    with pytest.raises(BundleDamaged) as error:
        run(own, broken)
    assert str(error.value).startswith(f"{broken}: the retriever cannot be measured: ")
    assert "query_tower.onnx: not an ONNX model" in str(error.value)
