"""Each gate by itself: what it measures, what it says, and what it refuses."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.export.served_traffic.logs import interleaved
from tests.helpers import altered
from tests.helpers.releases import no_data
from tests.helpers.stdlib import Made, tracking_at
from twinspire.export.__main__ import parser
from twinspire.export.benchmark.isolated_process import ProcessFailure, ask
from twinspire.export.release import promote
from twinspire.export.release.decision_report import write_report
from twinspire.export.release.gate import (
    ComparedVersion,
    Comparison,
    Gate,
    GateResult,
    Judgement,
)
from twinspire.export.release.gates import (
    GATES,
    _discovered,
    interleaving,
    latency,
    parity,
    quality,
    recall,
    size_and_load,
)
from twinspire.export.release.promote import compare_versions
from twinspire.export.served_traffic.served_answers import ServedFiles
from twinspire.protos import bundle, entry_points
from twinspire.protos.cli import UsageError
from twinspire.train.config import Experiment
from twinspire.train.config.gates import GatesConfig
from twinspire.train.config.training import TrainingConfig


def comparison(
    made: Made,
    scratch: Path,
    challenger: ComparedVersion,
    champion: ComparedVersion | None = None,
    **gates: Any,
) -> Comparison:
    experiment = dataclasses.replace(made.experiment, gates=GatesConfig(**gates))
    return Comparison(challenger, champion, experiment, no_data, scratch)


@pytest.mark.timeout(300)  # its bundle may have to be made
def test_a_bundle_of_histories_is_measured_too(films_made: Made, tmp_path: Path) -> None:
    """Without a champion everything is measured, and nothing is relative."""
    experiment = dataclasses.replace(films_made.experiment, gates=GatesConfig(iterations=200))
    with tracking_at(films_made.uri):
        decision = compare_versions(altered.side("1", films_made.folder), None, experiment, no_data)
    assert decision.accepted, decision.verdict()
    assert [result.name for result in decision.results] == [*GATES]
    for side in ("query", "item"):
        assert decision.measured["parity"][side]["records"] > 100
    for name in ("query_tower_latency", "retriever_latency"):
        (result,) = (each for each in decision.results if each.name == name)
        assert result.figure is None
        assert "no champion" in result.text
    write_report(decision, tmp_path)
    page = (tmp_path / "decision.md").read_text()
    assert "There is no champion yet" in page
    assert "EASE" in page


def test_two_gates_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recall, "GATES", (*recall.GATES, dataclasses.replace(GATES["quality"])))
    with pytest.raises(ValueError, match=r"expected one gate of each name, got another quality$"):
        _discovered()


def test_one_more_gate_takes_nothing_but_its_declaration(made: Made, tmp_path: Path) -> None:
    def judge(comparison: Comparison) -> Judgement:
        count, least = comparison.challenger.manifest.count, 10**9
        return GateResult("item_count", count, least, count >= least, f"{count} items"), {}

    gate = Gate(
        name="item_count",
        title="items in the catalogue",
        order=1,
        judge=judge,
        shown=lambda figure: f"{figure:,.0f}",
        measured_as="item_count",
        at_least=True,
    )
    side = altered.side("2", made.folder)
    decision = compare_versions(side, None, made.experiment, no_data, {gate.name: gate})
    assert decision.verdict() == f"refused by item_count: {side.manifest.count} items"
    write_report(decision, tmp_path, {gate.name: gate})
    page = (tmp_path / "decision.md").read_text()
    (row,) = [line for line in page.splitlines() if line.startswith("| items in the catalogue ")]
    shown = ["items in the catalogue", f"{side.manifest.count:,}", "≥ 1,000,000,000", "**refuse**"]
    assert [cell.strip() for cell in row.strip("|").split("|")][:4] == shown


def test_a_champion_that_does_not_load_is_said_to_be_at_fault(made: Made, tmp_path: Path) -> None:
    champion = altered.altered(made.folder, tmp_path, altered.mislead)
    sides = altered.side("2", made.folder), altered.side("1", champion)
    decision = compare_versions(*sides, made.experiment, no_data)
    (refused,) = decision.refused
    assert refused.name == "load_time"
    assert refused.text.startswith("the champion failed while loading: BundleDamaged: links.npy: ")
    assert refused.text.endswith("nothing can be compared with it")
    assert {result.name for result in decision.results if result.holds} == {
        "parity", "filtered_recall", "quality", "quality_history", "baseline", "interleaving", "bundle_size"
    }  # fmt: skip


def judged_parity(made: Made, scratch: Path, side: ComparedVersion, **gates: Any) -> Judgement:
    """As `parity.judge`, for a challenger that loads."""
    return parity._judge(comparison(made, scratch, side, **gates))


def test_a_bundle_whose_run_is_gone_is_refused(made: Made, tmp_path: Path) -> None:
    orphan = altered.altered(made.folder, tmp_path, run_id="0" * 32)
    gate, _ = judged_parity(made, tmp_path, altered.side("2", orphan))
    assert (gate.holds, gate.figure) == (False, None)
    assert f"run {'0' * 32}" in gate.text


def test_the_tolerance_is_the_bundles_own_or_that_of_the_toml(made: Made, tmp_path: Path) -> None:
    side = altered.side("1", made.folder)
    gate, _ = judged_parity(made, tmp_path, side)
    assert (gate.bound, gate.holds) == (made.experiment.export.parity_tolerance, True)
    gate, _ = judged_parity(made, tmp_path, side, parity_tolerance=1e-9)
    assert (gate.bound, gate.holds) == (1e-9, False)


def judged_recall(made: Made, recalls: list[float], claimed: float, **gates: Any) -> GateResult:
    side = altered.side("1", made.folder)
    manifest = dataclasses.replace(side.manifest, ann={"ann_recall_at_10": claimed})
    compared = comparison(made, made.folder, dataclasses.replace(side, manifest=manifest), **gates)
    compared.served = {"recall": {"challenger": recalls}}
    found = recall.judge_index(compared)
    assert found is not None
    return found[0]


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
    return {"p50_us": p99, "p99_us": p99}


def judged_latency(made: Made, challenger: list[float], champion: list[float]) -> GateResult:
    compared = comparison(made, made.folder, altered.side("1", made.folder), retriever_p99_ratio=1.25)
    sides = {"challenger": rounds(challenger), "champion": rounds(champion)}
    compared.served = {"latency": {"retriever": sides}}
    found = latency.judge("retriever", compared)
    assert found is not None
    return found[0]


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

    def judged_size(champion: ComparedVersion | None, **gates: float) -> Judgement:
        return size_and_load.judge_size(comparison(made, tmp_path, large, champion, **gates))

    gate, sizes = judged_size(champion, max_size_ratio=1.2)
    assert not gate.holds
    assert gate.bound == pytest.approx(1.2 * sizes["champion"])
    assert sizes["challenger"] == pytest.approx(sizes["champion"] + 4, abs=0.01)
    assert judged_size(None, max_size_ratio=1.2)[0].holds
    assert judged_size(champion, max_size_ratio=2)[0].holds
    assert not judged_size(None, max_size_mib=5)[0].holds
    for most, holds in ((1.5, False), (2.5, True)):
        compared = comparison(made, tmp_path, large, champion, max_load_seconds=most)
        compared.served = {"load_s": {"challenger": [3.0, 1.0, 2.0], "champion": [1.0, 1.0, 9.0]}}
        gate, seconds = size_and_load.judge_load_time(compared)
        assert (gate.holds, gate.figure, seconds) == (holds, 2.0, {"challenger": 2.0, "champion": 1.0})


CODES = {
    "import os, sys; sys.stderr.write('step: {}\\n'); os.abort()": "the process was killed by SIGABRT",
    "import sys; sys.stderr.write('step: {}\\nno room\\n'); sys.exit(3)": (
        "the process ended with exit code 3 and no answer: no room"
    ),
    "import sys, time; sys.stderr.write('step: {}\\n'); sys.stderr.flush(); time.sleep(60)": (
        "the process did not end within 4 seconds"
    ),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize(("code", "said"), CODES.items(), ids=[*CODES.values()])
def test_a_process_that_dies_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, said: str
) -> None:
    step = json.dumps({"bundle": "challenger", "step": "loading"})
    (tmp_path / "dying.py").write_text(code.replace("{}", step.replace('"', '\\"')))
    monkeypatch.setattr(entry_points, "BUNDLE_BENCHMARK", "dying")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert ask({}, tmp_path, patience=4) == ProcessFailure("challenger", f"loading: {said}")


def test_the_process_has_the_declared_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "telling.py").write_text(
        "import json, os\nprint(json.dumps({'threads': os.environ.get('OMP_NUM_THREADS')}))"
    )
    monkeypatch.setattr(entry_points, "BUNDLE_BENCHMARK", "telling")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert ask({}, tmp_path, threads=3) == {"threads": "3"}
    assert ask({}, tmp_path, threads=0) == {"threads": None}
    assert "torch" in sys.modules  # here, and not there


Policy = Literal["warn", "refuse"]
BEATEN = {"recall_at_10": 0.5, "bm25_recall_at_10": 0.6, "queries": 9, "drawn": "9 modules"}


def judged_baseline(experiment: Experiment, made: Made, scratch: Path, metrics: dict[str, Any]) -> Judgement:
    """The judgement on a first challenger whose report has these metrics."""
    side = altered.side("1", made.folder)
    challenger = dataclasses.replace(side, manifest=dataclasses.replace(side.manifest, quality=metrics))
    return quality.judge_baseline(Comparison(challenger, None, experiment, no_data, scratch))


def baseline_of(made: Made, scratch: Path, metrics: dict[str, Any], policy: Policy = "warn") -> GateResult:
    experiment = dataclasses.replace(made.experiment, gates=GatesConfig(worse_than_baseline=policy))
    return judged_baseline(experiment, made, scratch, metrics)[0]


def lead(mean: float, low: float, high: float) -> dict[str, float]:
    ends = zip(("", "_low", "_high"), (mean, low, high), strict=True)
    return {f"bm25_difference_recall_at_10{end}": value for end, value in ends}


@pytest.mark.parametrize("policy", ["warn", "refuse"])
def test_a_first_champion_that_a_baseline_beats_is_warned_of_or_refused(
    made: Made, tmp_path: Path, policy: Policy
) -> None:
    result = baseline_of(made, tmp_path, BEATEN | lead(-0.1, -0.15, -0.05), policy)
    assert (result.figure, result.bound, result.holds) == (-0.05, 0.0, policy == "warn")
    assert result.text.startswith(
        "better baseline: BM25, recall@10 0.600 against 0.500, -0.1000 (-0.1500 to -0.0500, "
    )
    assert result.warning == (result.text if policy == "warn" else "")


@pytest.mark.parametrize("metrics", [{}, {"recall_at_10": 0.5}])
def test_without_baselines_there_is_nothing_to_compare_with(
    made: Made, tmp_path: Path, metrics: dict[str, Any]
) -> None:
    result = baseline_of(made, tmp_path, metrics, "refuse")
    assert (result.figure, result.holds, result.warning) == (None, True, "")


@pytest.mark.parametrize(
    ("gates", "metrics", "metric"),
    [
        ({}, {"auc": 0.7, "itemmean_auc": 0.6, "user_item_auc": 0.71}, "auc"),
        ({}, {"ndcg_at_10": 0.5}, "ndcg_at_10"),
        ({"quality_metric": "mrr_at_10"}, {"auc": 0.7}, "mrr_at_10"),
    ],
)
def test_a_model_is_compared_with_baselines_by_the_metric_of_its_training(
    made: Made, tmp_path: Path, gates: dict[str, Any], metrics: dict[str, Any], metric: str
) -> None:
    of_auc = dataclasses.replace(made.experiment, training=TrainingConfig(selection="auc"))
    experiment = dataclasses.replace(of_auc, gates=GatesConfig(**gates))
    assert judged_baseline(experiment, made, tmp_path, metrics)[1] == {"metric": metric}


def interleaved_of(
    made: Made, scratch: Path, files: ServedFiles | None, has_champion: bool = True
) -> GateResult:
    challenger = altered.side("2", made.folder)
    version = dataclasses.replace(challenger.manifest, bundle_version="one")
    champion = dataclasses.replace(challenger, version="1", manifest=version) if has_champion else None
    comparison = Comparison(challenger, champion, made.experiment, no_data, scratch, answers=files)
    return interleaving.judge(comparison)[0]


@pytest.mark.parametrize(
    ("teams", "decision"), [([1] * 60 + [0] * 20, "better"), ([1, 0] * 40, "open"), ([0] * 80, "worse")]
)
def test_only_a_challenger_that_users_prefer_passes(
    made: Made, tmp_path: Path, teams: list[int], decision: str
) -> None:
    version = bundle.read_manifest(made.folder).bundle_version
    result = interleaved_of(made, tmp_path, interleaved(tmp_path / "files", teams, challenger=version))
    assert result.holds == (decision == "better")
    assert result.bound == pytest.approx(20)
    assert result.text.startswith(f"{decision}: {sum(teams)} users preferred the challenger, ")


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("none", "no --served-log and --events were given"),
        ("first", "there is no champion"),
        ("others", "the served log has no answer in which the two were interleaved"),
    ],
)
def test_without_answers_the_gate_holds_and_says_why(made: Made, tmp_path: Path, kind: str, why: str) -> None:
    files = None if kind == "none" else interleaved(tmp_path / "files", [1, 1])
    result = interleaved_of(made, tmp_path, files, has_champion=kind != "first")
    assert (result.figure, result.holds, result.text) == (None, True, f"not judged: {why}")


def test_log_and_events_go_together(tmp_path: Path) -> None:
    known = parser().parse_args(["promote", "--served-log", "log", "--events", "e", "--types", "buy"])
    assert promote.served_files(known) == ServedFiles(Path("log"), Path("e"), ("buy",))
    assert promote.served_files(parser().parse_args(["promote"])) is None
    with pytest.raises(UsageError, match="--served-log and --events go together"):
        promote.served_files(parser().parse_args(["promote", "--events", "e"]))
