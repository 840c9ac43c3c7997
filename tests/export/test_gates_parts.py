"""Each gate by itself: what it measures, what it says, and what it refuses."""

import contextlib
import dataclasses
import json
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import psutil
import pytest
from rich.console import Console

from export.gates import Decision, Gate, apart, compare, cost, latency, parity, recall, shadow, write_report
from export.gates.apart import Failure, ask
from export.gates.decision import NAMES
from export.gates.page import AT_LEAST, TITLES, UNITS
from protos import bundle
from protos.mlflow_names import SHADOW, SHADOW_CHALLENGER, STAGE
from tests.export import altered
from tests.stdlib import Made, tracking_at
from train.config import Experiment, GatesConfig
from train.problem import Problem
from train.tracking import experiment_id


@pytest.fixture
def tracked(made_once: Made, tmp_path: Path) -> Iterator[Path]:
    """A folder with a copy of the store of `made_once`, which MLflow points at."""
    store = shutil.copy(made_once.uri.removeprefix("sqlite:///"), tmp_path / "mlflow.db")
    with tracking_at(f"sqlite:///{store}"):
        yield tmp_path


def with_gates(experiment: Experiment, **gates: Any) -> Experiment:
    return dataclasses.replace(experiment, gates=GatesConfig(**gates))


def unasked() -> Problem:
    raise AssertionError("what the bundle brings is enough")


def test_a_bundle_of_histories_is_measured_too(films_made: Made, tmp_path: Path) -> None:
    """Without a champion everything is measured, and nothing is relative."""
    experiment = with_gates(films_made.experiment, iterations=200)
    with tracking_at(films_made.uri):
        decision = compare(
            altered.side("1", films_made.folder), None, experiment, unasked, Console(quiet=True)
        )
    assert decision.accepted, decision.verdict()
    assert tuple(gate.name for gate in decision.gates) == NAMES
    for side in ("query", "item"):
        assert decision.measured["parity"][side]["records"] > 100
    for name in ("query_tower_latency", "retriever_latency"):
        (gate,) = (each for each in decision.gates if each.name == name)
        assert gate.figure is None
        assert "no champion" in gate.text
    write_report(decision, tmp_path)
    page = (tmp_path / "decision.md").read_text()
    assert "There is no champion yet" in page
    assert "EASE" in page
    assert not (tmp_path / "quality.png").exists()
    assert (tmp_path / "latency.png").read_bytes().startswith(b"\x89PNG")


def test_every_gate_has_a_title_and_a_unit() -> None:
    assert {*TITLES} == {*UNITS} == {*NAMES} > {*AT_LEAST}


def test_a_champion_that_does_not_load_is_said_to_be_at_fault(made: Made, tmp_path: Path) -> None:
    champion = altered.altered(made.folder, tmp_path, altered.mislead)
    sides = altered.side("2", made.folder), altered.side("1", champion)
    decision = compare(*sides, made.experiment, unasked, Console(quiet=True))
    (refused,) = decision.refused
    assert refused.name == "load_time"
    assert refused.text.startswith("the champion failed while loading: BundleDamaged: index.hnsw: ")
    assert refused.text.endswith("nothing can be compared with it")
    assert {gate.name for gate in decision.gates if gate.holds} == {
        "parity", "quality", "bundle_size", "shadow"
    }  # fmt: skip


def test_a_process_that_is_killed_is_a_failure_of_what_it_did(made: Made, tmp_path: Path) -> None:
    """As a graph does that its runtime does not survive, or one that is too large for the memory."""

    def kill() -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            for each in psutil.Process().children():
                with contextlib.suppress(psutil.Error):
                    if apart.MODULE in each.cmdline():
                        each.kill()
                        return
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    endless = {"k": 10, "threads": 1, "iterations": 10**6, "rounds": 10, "loads": 3}
    found = ask({"task": "measure", "bundles": {"challenger": str(made.folder)}, **endless}, tmp_path)
    killer.join()
    assert isinstance(found, Failure)
    assert "killed the process that did it (SIGKILL)" in found.text


def test_where_the_run_is_gone_the_manifest_stands_in(made: Made, tmp_path: Path) -> None:
    orphan = altered.altered(made.folder, tmp_path, run_id="0" * 32)
    gate, measured = parity.judge(altered.side("2", orphan), made.experiment, tmp_path)
    claimed = max(each["max_abs_diff"] for each in bundle.read(made.folder).parity.values())
    assert (gate.holds, gate.figure, measured["claimed"]) == (True, claimed, claimed)
    assert gate.text.startswith(f"not measured anew (run {'0' * 32}: not known to")
    silent = altered.altered(made.folder, tmp_path, run_id="0" * 32, parity={})
    gate, _ = parity.judge(altered.side("2", silent), made.experiment, tmp_path)
    assert (gate.holds, gate.figure) == (False, None)
    assert gate.text.endswith("the manifest claims nothing")


def test_the_tolerance_is_the_bundles_own_or_that_of_the_toml(made: Made, tmp_path: Path) -> None:
    side = altered.side("1", made.folder)
    gate, _ = parity.judge(side, made.experiment, tmp_path)
    assert (gate.bound, gate.holds) == (made.experiment.export.parity_tolerance, True)
    gate, _ = parity.judge(side, with_gates(made.experiment, parity_tolerance=1e-9), tmp_path)
    assert (gate.bound, gate.holds) == (1e-9, False)


def judged_recall(made: Made, recalls: list[float], claimed: float, **gates: Any) -> Gate:
    side = altered.side("1", made.folder)
    manifest = dataclasses.replace(side.manifest, ann={"ann_recall_at_10": claimed})
    return recall.judge(
        dataclasses.replace(side, manifest=manifest), with_gates(made.experiment, **gates), recalls
    )[0]


def test_recall_is_refused_where_it_is_certain_or_claimed_to_be_below(made: Made) -> None:
    low, near, high = [0.9] * 150 + [1.0] * 50, [0.8] * 22 + [1.0] * 178, [1.0] * 200
    assert judged_recall(made, high, 0.99).holds
    assert judged_recall(made, near, 0.99).holds  # .978: as likely to be .98
    assert not judged_recall(made, low, 0.99).holds
    claimed = judged_recall(made, high, 0.97)
    assert (claimed.holds, claimed.figure) == (False, 0.97)
    assert not judged_recall(made, near, 0.99, recall_target=0.999).holds
    assert judged_recall(made, high, 0.97, recall_k=5).holds  # nothing is claimed at 5


def rounds(p99: list[float]) -> dict[str, Any]:
    return {"p50_us": p99, "p99_us": p99, "quantiles_us": np.linspace(1, max(p99), 101).tolist()}


def judged_latency(made: Made, challenger: list[float], champion: list[float]) -> Gate:
    sides = {"challenger": rounds(challenger), "champion": rounds(champion)}
    found = {"query_tower": sides, "retriever": sides}
    return latency.judge(with_gates(made.experiment, retriever_p99_ratio=1.25), found)[0][1]


def test_no_noise_refuses_a_latency(made: Made) -> None:
    even, noisy = [100.0] * 10, [90.0, 300.0, 100.0, 95.0, 210.0, 105.0, 400.0, 98.0, 180.0, 170.0]
    assert judged_latency(made, even, even).figure == 1
    held = judged_latency(made, noisy, even)
    assert held.figure is not None
    assert held.figure > held.bound
    assert held.holds  # most of it may be noise
    slow = judged_latency(made, [1.5 * each for each in even], even)
    assert (slow.figure, slow.holds) == (1.5, False)
    assert judged_latency(made, [1.2 * each for each in noisy], noisy).holds


def test_a_bundle_may_be_as_large_and_as_slow_to_load_as_the_toml_says(made: Made, tmp_path: Path) -> None:
    def grow(folder: Path) -> None:
        (folder / bundle.REPORTS / "large.bin").write_bytes(bytes(4 * 2**20))

    champion = altered.side("1", made.folder)
    large = altered.side("2", altered.altered(made.folder, tmp_path, grow))
    experiment = with_gates(made.experiment, max_size_ratio=1.2)
    gate, sizes = cost.judge_size(large, champion, experiment)
    assert not gate.holds
    assert gate.bound == pytest.approx(1.2 * sizes["champion"])
    assert sizes["challenger"] == pytest.approx(sizes["champion"] + 4, abs=0.01)
    assert cost.judge_size(large, None, experiment)[0].holds
    assert cost.judge_size(large, champion, with_gates(made.experiment, max_size_ratio=2))[0].holds
    assert not cost.judge_size(large, None, with_gates(made.experiment, max_size_mib=5))[0].holds
    loads = {"challenger": [3.0, 1.0, 2.0], "champion": [1.0, 1.0, 9.0]}
    gate, seconds = cost.judge_load(with_gates(made.experiment, max_load_seconds=1.5), loads)
    assert (gate.holds, gate.figure, seconds) == (False, 2.0, {"challenger": 2.0, "champion": 1.0})
    assert cost.judge_load(with_gates(made.experiment, max_load_seconds=2.5), loads)[0].holds


def shadowed(name: str, bundle_version: str, **metrics: float) -> None:
    with mlflow.start_run(
        experiment_id=experiment_id(name),
        tags={STAGE: SHADOW, SHADOW_CHALLENGER: bundle_version},
    ):
        mlflow.log_metrics(metrics)


def test_shadow_runs_of_the_challenger_are_summed(made_once: Made, tracked: Path) -> None:
    side = altered.side("1", made_once.folder)
    demanding = with_gates(made_once.experiment, min_shadow_queries=100)
    gate, _ = shadow.judge(side, made_once.experiment)
    assert (gate.holds, gate.figure, gate.text) == (True, 0, "not run as a shadow")
    gate, _ = shadow.judge(side, demanding)
    assert (gate.holds, gate.bound) == (False, 100)
    name, version = made_once.experiment.name, side.manifest.bundle_version
    shadowed(name, version, shadow_queries=60, shadow_overlap_at_10=0.5)
    shadowed(name, version, shadow_queries=30, shadow_overlap_at_10=0.8, shadow_empty=4)
    shadowed(name, version, shadow_queries=0, shadow_overlap_at_10=0.0)
    shadowed(name, "another", shadow_queries=1000)
    gate, measured = shadow.judge(side, demanding)
    assert (gate.holds, gate.figure) == (False, 90)
    assert measured == {
        "runs": 2,
        "shadow_queries": 90,
        "shadow_overlap_at_10": pytest.approx(0.6),
        "shadow_empty": 4,
    }
    shadowed(name, version, shadow_queries=10)
    assert shadow.judge(side, demanding)[0].holds


CODES = {
    "import os, sys; sys.stderr.write('step: {}\\n'); os.abort()": "killed the process that did it (SIGABRT)",
    "import sys; sys.stderr.write('step: {}\\nno room\\n'); sys.exit(3)": (
        "ended the process that did it with 3: no room"
    ),
    "import sys, time; sys.stderr.write('step: {}\\n'); sys.stderr.flush(); time.sleep(60)": (
        "did not end within 4 seconds"
    ),
}


@pytest.mark.parametrize(("code", "said"), CODES.items(), ids=[*CODES.values()])
def test_a_process_that_dies_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, said: str
) -> None:
    step = json.dumps({"bundle": "challenger", "step": "loading"})
    (tmp_path / "dying.py").write_text(code.replace("{}", step.replace('"', '\\"')))
    monkeypatch.setattr(apart, "MODULE", "dying")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert ask({}, tmp_path, patience=4) == Failure("challenger", f"loading: {said}")


def test_the_process_has_the_declared_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "telling.py").write_text(
        "import json, os\nprint(json.dumps({'threads': os.environ.get('OMP_NUM_THREADS')}))"
    )
    monkeypatch.setattr(apart, "MODULE", "telling")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert ask({}, tmp_path, threads=3) == {"threads": "3"}
    assert ask({}, tmp_path, threads=0) == {"threads": None}
    assert "torch" in sys.modules  # here, and not there


def test_a_decision_is_ready_for_json(made: Made) -> None:
    side = altered.side("2", made.folder)
    gates = (Gate("shadow", 3, 5, False, "asked 3 live queries"), Gate("load_time", None, 60, True, "quick"))
    decision = Decision(side, None, gates, {"shadow": {"runs": 1}})
    assert not decision.accepted
    assert decision.refused == gates[:1]
    content = json.loads(json.dumps(decision.document(), allow_nan=False))
    assert content["champion"] is None
    assert content["refused"] == ["shadow"]
    assert content["verdict"] == "refused by shadow: asked 3 live queries"
    assert content["gates"][1]["figure"] is None
    assert Decision(side, side, (), {}).accepted
