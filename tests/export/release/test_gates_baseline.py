"""A model that a plain baseline beats beyond chance is promoted with a warning, or refused."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import pytest
from rich.console import Console

from tests.helpers import altered
from tests.helpers.releases import no_data
from tests.helpers.stdlib import Made
from twinspire.export.release.gate import Comparison, GateResult, Judgement
from twinspire.export.release.gates import baseline
from twinspire.train.config import Experiment, GatesConfig, TrainingConfig

Policy = Literal["warn", "refuse"]
BEATEN = {"recall_at_10": 0.5, "bm25_recall_at_10": 0.6, "queries": 9, "drawn": "9 modules"}


def judged(experiment: Experiment, made: Made, scratch: Path, metrics: dict[str, Any]) -> Judgement:
    """The judgement on a first challenger whose report has these metrics."""
    side = altered.side("1", made.folder)
    challenger = dataclasses.replace(side, manifest=dataclasses.replace(side.manifest, quality=metrics))
    return baseline.judge(Comparison(challenger, None, experiment, no_data, Console(quiet=True), scratch))


def result_of(made: Made, scratch: Path, metrics: dict[str, Any], policy: Policy = "warn") -> GateResult:
    experiment = dataclasses.replace(made.experiment, gates=GatesConfig(worse_than_baseline=policy))
    return judged(experiment, made, scratch, metrics)[0]


def lead(mean: float, low: float, high: float) -> dict[str, float]:
    ends = zip(("", "_low", "_high"), (mean, low, high), strict=True)
    return {f"bm25_difference_recall_at_10{end}": value for end, value in ends}


@pytest.mark.parametrize("policy", ["warn", "refuse"])
def test_a_first_champion_that_a_baseline_beats_is_warned_of_or_refused(
    made: Made, tmp_path: Path, policy: Policy
) -> None:
    result = result_of(made, tmp_path, BEATEN | lead(-0.1, -0.15, -0.05), policy)
    assert (result.figure, result.bound, result.holds) == (-0.05, 0.0, policy == "warn")
    assert result.text.startswith(
        "better baseline: BM25, recall@10 0.600 against 0.500, -0.1000 (-0.1500 to -0.0500, "
    )
    assert result.warning == (result.text if policy == "warn" else "")


@pytest.mark.parametrize("metrics", [{}, {"recall_at_10": 0.5}])
def test_without_baselines_there_is_nothing_to_compare_with(
    made: Made, tmp_path: Path, metrics: dict[str, Any]
) -> None:
    result = result_of(made, tmp_path, metrics, "refuse")
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
    assert judged(experiment, made, tmp_path, metrics)[1] == {"metric": metric}
