"""Champion and challenger are compared query by query; anew where the bundles do not bring what it takes."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import altered
from tests.helpers.stdlib import Made
from twinspire.export.evaluation import per_query
from twinspire.export.evaluation.per_query import RowMetrics
from twinspire.export.release.gate import Comparison, Judgement
from twinspire.export.release.gates import quality
from twinspire.export.release.gates.quality import judge_metrics, metric_of
from twinspire.export.release.paired_metrics import Evaluated, Paired
from twinspire.protos import bundle
from twinspire.protos.errors import BundleDamaged
from twinspire.train.config.gates import GatesConfig
from twinspire.train.config.training import TrainingConfig
from twinspire.train.data.training_data import TrainingData, training_data_of
from twinspire.train.evaluation.intervals import Clusters
from twinspire.train.metrics import mean

Compared = Callable[[Path, Callable[[], TrainingData]], Judgement]

FILE = f"{bundle.REPORTS}/{per_query.QUERIES.name}"


@pytest.fixture
def data(made: Made) -> Callable[[], TrainingData]:
    return lambda: training_data_of(made.dataset, made.experiment.query, made.experiment.item)


def forget(folder: Path) -> None:
    (folder / FILE).unlink()


@pytest.fixture
def comparison(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Comparison]:
    """A comparison of a challenger that runs, or does not, with the bundle of `made`."""

    def made_of(challenger: Path, data: Callable[[], TrainingData], runs: bool = True) -> Comparison:
        sides = altered.side("2", challenger), altered.side("1", made.folder)
        monkeypatch.setattr(Comparison, "challenger_runs", runs)
        return Comparison(*sides, made.experiment, data, tmp_path)

    return made_of


@pytest.fixture
def compared(comparison: Callable[..., Comparison]) -> Compared:
    """The judgement on a challenger that runs."""

    def judged(challenger: Path, data: Callable[[], TrainingData]) -> Judgement:
        found = quality.judge(comparison(challenger, data))
        assert found is not None
        return found

    return judged


def test_what_travels_is_what_the_report_says(made: Made) -> None:
    found = per_query.load(made.folder)
    assert found is not None
    report = bundle.read(made.folder).quality
    assert len(found.rows) == len({*found.rows.tolist()}) == report["queries"]
    for name, value in mean({k: v.astype(np.float64) for k, v in found.metrics.items()}).items():
        assert value == pytest.approx(report[name], abs=1e-6)


@pytest.mark.parametrize(
    ("change", "manifest", "why"),
    [
        (forget, {}, "the challenger brings no metrics of single queries"),
        (
            altered.annotate,
            {"split_hash": "1" * 64},
            "the splits differ; the champion may have learned some of the queries",
        ),
    ],
)
def test_anew_gives_what_the_bundles_bring(
    made: Made,
    compared: Compared,
    data: Callable[[], TrainingData],
    tmp_path: Path,
    change: Callable[[Path], None],
    manifest: dict[str, Any],
    why: str,
) -> None:
    challenger = altered.altered(made.folder, tmp_path, change, **manifest)
    gate, measured = compared(challenger, data)
    assert gate.holds
    assert gate.figure == 0
    assert measured["evaluated_anew"] == why
    assert gate.text.endswith(f"; both evaluated again, because {why}")
    stored = per_query.load(made.folder)
    assert stored is not None
    for side in ("challenger", "champion"):
        for name, values in stored.metrics.items():
            assert measured["means"][side][name] == pytest.approx(float(values.mean(dtype=np.float64)))


def test_queries_that_favour_the_champion_are_told(
    made: Made, compared: Compared, data: Callable[[], TrainingData], tmp_path: Path
) -> None:
    def shown() -> TrainingData:
        return dataclasses.replace(data(), by_ranking=0.9)

    gate, _ = compared(altered.altered(made.folder, tmp_path, forget), shown)
    assert "; 90% of the test pairs are clicks on what a ranking alone has chosen to show" in gate.text


def test_a_worse_bundle_is_found_out_anew(
    made: Made, compared: Compared, data: Callable[[], TrainingData], tmp_path: Path
) -> None:
    def swap(folder: Path) -> None:
        forget(folder)
        altered.disturb(folder, share=20)

    gate, _ = compared(altered.altered(made.folder, tmp_path, swap), data)
    assert not gate.holds
    assert gate.figure is not None
    assert gate.figure < gate.bound


@pytest.mark.parametrize("error", [BundleDamaged("the data are gone"), RuntimeError("no memory")])
def test_without_data_nothing_is_said_to_hold(
    made: Made, comparison: Callable[..., Comparison], compared: Compared, tmp_path: Path, error: Exception
) -> None:
    def gone() -> TrainingData:
        raise error

    challenger = altered.altered(made.folder, tmp_path, forget)
    gate, measured = compared(challenger, gone)
    assert (gate.holds, gate.figure, measured) == (False, None, {"error": gate.text})
    assert str(error) in gate.text
    assert quality.judge(comparison(challenger, gone, runs=False)) is None


def test_a_feature_that_the_data_lack_is_named(
    made: Made, compared: Compared, data: Callable[[], TrainingData], tmp_path: Path
) -> None:
    full = data()
    challenger = altered.altered(made.folder, tmp_path, forget)
    gate, _ = compared(challenger, lambda: dataclasses.replace(full, queries={"said": [""]}))
    assert not gate.holds
    assert "version 2 cannot be evaluated on the challenger's data: it reads query.text" in gate.text


def test_a_damaged_file_is_no_reason_to_fail(made: Made, compared: Compared, tmp_path: Path) -> None:
    damaged = altered.altered(made.folder, tmp_path, lambda folder: (folder / FILE).write_bytes(b"PK\x03"))
    with pytest.raises(BundleDamaged, match=r"per_query\.npz: not the metrics of single queries"):
        per_query.load(damaged)
    gate, _ = compared(damaged, lambda: pytest.fail("not asked for"))
    assert not gate.holds
    assert per_query.QUERIES.name in gate.text


def of(values: list[float], metric: str = "recall_at_10") -> RowMetrics:
    found = {metric: np.array(values, np.float32)}
    return RowMetrics(np.arange(len(values), dtype=np.uint64), found, Clusters.single(len(values)))


def of_users(values: list[float]) -> RowMetrics:
    """Nine queries of each user, of one value."""
    clusters = Clusters(np.repeat(np.arange(len(values)), 9), "users")
    return dataclasses.replace(of(np.repeat(values, 9).tolist()), clusters=clusters)


def judge(made: Made, found: Evaluated, **gates: Any) -> Judgement:
    return judge_metrics(found, dataclasses.replace(made.experiment, gates=GatesConfig(**gates)))


def test_pairs_tell_more_than_means(made: Made) -> None:
    """The same difference of means is certain where it is the same for every query, and else is not."""
    champion = [0.0, 1.0] * 100
    even = [value - 0.02 for value in champion]
    uneven = [0.0, 1.0] * 96 + [0.0] * 8
    held, measured = judge(made, Evaluated(Paired(of(even), of(champion))), quality_margin=0.025)
    refused, other = judge(made, Evaluated(Paired(of(uneven), of(champion))), quality_margin=0.025)
    assert held.holds
    assert held.figure == pytest.approx(-0.02, abs=1e-6)
    for each in (measured, other):
        assert each["differences"]["recall_at_10"]["mean"] == pytest.approx(-0.02, abs=1e-6)
    assert refused.figure is not None
    assert refused.figure < refused.bound
    assert not refused.holds
    again, _ = judge(made, Evaluated(Paired(of(uneven), of(champion))), quality_margin=0.025)
    assert again == refused  # seeded


def test_the_queries_of_a_user_are_drawn_together(made: Made) -> None:
    """A loss that single queries make certain is not when few users have it."""
    champion = [0.0, 1.0] * 30
    worse = [*champion[:-6], *[0.0] * 6]  # three of sixty users lose what they found
    singly, singly_worse = (of(np.repeat(each, 9).tolist()) for each in (champion, worse))
    margin = {"quality_margin": 0.075}
    refused, measured = judge(made, Evaluated(Paired(of_users(worse), of_users(champion))), **margin)
    assert not refused.holds
    assert "95 % interval, 60 users drawn) over 540 queries" in refused.text
    assert measured["drawn"] == "60 users"
    assert judge(made, Evaluated(Paired(singly_worse, singly)), **margin)[0].holds


def test_the_clusters_travel_with_the_bundle(made: Made) -> None:
    found = per_query.load(made.folder)
    assert found is not None
    assert str(found.clusters) == bundle.read(made.folder).quality["drawn"]
    assert found.clusters.unit == "groups"
    assert 1 < len(found.clusters) < len(found.rows)


def test_without_a_champion_the_metric_must_be_a_number(made: Made) -> None:
    gate, _ = judge(made, Evaluated(Paired(of([0.25, 0.75]))))
    assert (gate.holds, gate.figure) == (True, None)  # the bound is one of a difference
    assert "0.5000" in gate.text
    assert "no champion" in gate.text
    for lacking in (of([0.25, float("nan")]), of([1.0], "mrr_at_10")):
        gate, _ = judge(made, Evaluated(Paired(lacking)))
        assert (gate.holds, gate.figure) == (False, None)
        assert "not a number for every query" in gate.text
    gate, _ = judge(made, Evaluated(Paired(of([1.0]), of([1.0], "mrr_at_10"))))
    assert (gate.holds, gate.figure) == (False, None)


def test_the_metric_is_that_of_training(made: Made) -> None:
    assert metric_of(made.experiment) == "recall_at_10"
    of_auc = dataclasses.replace(made.experiment, training=TrainingConfig(selection="auc"))
    assert metric_of(of_auc) == "ndcg_at_10"
    of_mrr = dataclasses.replace(made.experiment, gates=GatesConfig(quality_metric="mrr_at_10"))
    assert metric_of(of_mrr) == "mrr_at_10"
