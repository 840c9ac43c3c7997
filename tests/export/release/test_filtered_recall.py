"""The gate on searches with filters, on a bundle that has filter fields."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.releases import no_data
from tests.helpers.stdlib import write_toml
from tests.helpers.tiny import FILTERS, tiny_bundle
from twinspire.export.release.decision_report import write_report
from twinspire.export.release.gate import ComparedVersion, Comparison, Decision, GateResult, Judgement
from twinspire.export.release.gates import recall
from twinspire.protos import bundle
from twinspire.train.config import Experiment, read_experiment
from twinspire.train.config.gates import GatesConfig

(GATE,) = (gate for gate in recall.GATES if gate.name == "filtered_recall")
KINDS = ("random", "anti_correlated")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    folder = tmp_path_factory.mktemp("toml")  # its tables are never read
    return read_experiment(write_toml(folder, folder / "tiny.toml", "tiny"))


def judged(
    experiment: Experiment, folder: Path, scratch: Path, served: Any = None, **settings: Any
) -> Judgement:
    side = ComparedVersion("1", folder, bundle.read(folder))
    experiment = dataclasses.replace(experiment, gates=GatesConfig(**settings))
    request = {"k": 10, "loads": 1, "iterations": 100, "rounds": 1, **GATE.request(experiment)}
    compared = Comparison(side, None, experiment, no_data, scratch, request=request)
    if served is not None:
        compared.served = served
    found = recall.judge_filtered(compared)
    assert found is not None
    return found


def test_the_recall_of_each_bucket_is_measured_and_drawn(experiment: Experiment, tmp_path: Path) -> None:
    folder = tiny_bundle(tmp_path / "made", 3000, filters=FILTERS)
    result, measured = judged(experiment, folder, tmp_path)
    assert result.holds, result.text
    found = {(each["selectivity"], each["kind"]) for each in measured["buckets"]}
    assert found == {(share, kind) for share in (0.5, 0.1, 0.01, 0.001) for kind in KINDS}
    for each in measured["buckets"]:
        assert (each["incomplete"], each["wrong"], each["queries"] > 5) == (0, 0, True)
        assert each["selectivity"] / 1.5 <= each["passing"] <= each["selectivity"] * 1.5
    side = ComparedVersion("1", folder, bundle.read(folder))
    decision = Decision(
        side, None, (result,), {"filtered_recall": measured, "bundle_size": {"challenger": 1}}
    )
    write_report(decision, tmp_path / "page", {GATE.name: GATE})
    page = (tmp_path / "page" / "decision.md").read_text()
    assert "0.1% pass, anti-correlated with the query" in page


def test_a_bundle_without_filter_fields_passes(experiment: Experiment, tmp_path: Path) -> None:
    result, measured = judged(experiment, tiny_bundle(tmp_path / "made", 60), tmp_path)
    assert (result.holds, result.figure, measured) == (True, None, {})


def bucket(recall: list[float], **changed: int) -> dict[str, Any]:
    counts = {"incomplete": 0, "wrong": 0, **changed}
    return {"selectivity": 0.1, "kind": "random", "passing": 0.1, "recall": recall, "plans": {}, **counts}


@pytest.mark.parametrize(
    ("buckets", "settings", "expected"),
    [
        ([bucket([1.0] * 100)], {}, True),
        ([bucket([1.0] * 100), bucket([0.9] * 50 + [1.0] * 50)], {}, False),
        ([bucket([0.8] * 11 + [1.0] * 89)], {}, True),  # as likely to be .98
        ([bucket([0.9] * 100)], {"filtered_recall_target": 0.85}, True),
        ([bucket([1.0] * 100, incomplete=1)], {}, False),
        ([bucket([1.0] * 100, wrong=1)], {}, False),
    ],
)
def test_a_bucket_that_is_below_the_target_or_wrong_refuses(
    experiment: Experiment,
    tmp_path: Path,
    buckets: list[dict[str, Any]],
    settings: dict[str, Any],
    expected: bool,
) -> None:
    folder = tiny_bundle(tmp_path / "made", 60, filters=FILTERS)
    served = {"filtered": {"challenger": buckets}}
    result, _ = judged(experiment, folder, tmp_path, served, **settings)
    assert isinstance(result, GateResult)
    assert result.holds is expected
