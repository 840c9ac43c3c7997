"""Click models are judged by the log loss of the same labelled pairs, which their rankings do not show."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.special

from tests.export.release.test_audit_log import log_of
from tests.helpers import altered, releases, tiny
from twinspire.export.evaluation import pair_losses, per_query
from twinspire.export.evaluation.per_query import PAIRS, RowMetrics
from twinspire.export.release import audit_log
from twinspire.export.release.decision_report import page
from twinspire.export.release.gate import Comparison, Decision, Judgement
from twinspire.export.release.gates import GATES, quality, quality_history
from twinspire.export.release.gates.quality import judge_metrics
from twinspire.export.release.paired_metrics import Evaluated, Paired
from twinspire.export.release.promote import summary
from twinspire.protos import bundle
from twinspire.protos.bundle import Refreshed, Score
from twinspire.train.config import Experiment
from twinspire.train.config.gates import GatesConfig
from twinspire.train.config.training import TrainingConfig
from twinspire.train.data.training_data import Pairs, TrainingData
from twinspire.train.evaluation.intervals import Clusters
from twinspire.train.evaluation.labelled_metrics import Auc
from twinspire.train.evaluation.labelled_metrics import pair_losses as losses_of
from twinspire.train.metrics import per_query as metrics_of

Floats = npt.NDArray[np.float64]
SIGMOID = Score("sigmoid", -0.5)
ITEMS, POPULAR, USERS, EVENTS = 1500, 1000, 150, 8000
FILE = f"{bundle.REPORTS}/{PAIRS.name}"


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    """Whose epochs are selected by AUC."""
    made = releases.small_experiment(tmp_path)
    return dataclasses.replace(made, training=TrainingConfig(selection="auc"))


@dataclasses.dataclass(frozen=True)
class Log:
    """A log of labelled events, and the true logit of each item."""

    user: npt.NDArray[np.int64]
    item: npt.NDArray[np.int64]
    is_positive: npt.NDArray[np.bool_]
    logits: Floats

    @classmethod
    def draw(cls) -> "Log":
        random = np.random.default_rng(0)
        logits = random.normal(-1, 1.2, ITEMS)
        logits[POPULAR:] -= 1
        item = np.where(random.random(EVENTS) < 0.95, POPULAR, ITEMS) * random.random(EVENTS)
        user, rows = random.integers(0, USERS, EVENTS), item.astype(np.int64)
        clicked = random.random(EVENTS) < scipy.special.expit(logits[rows])
        return cls(user, rows, clicked, logits)

    def queries(self, logits: Floats) -> RowMetrics:
        """The metrics of rankings by a model that predicts these logits of the items."""
        asked = np.flatnonzero(self.is_positive)
        ranked = np.tile(np.argsort(-logits)[:100], (len(asked), 1))
        found = metrics_of(ranked, [self.item[[each]] for each in asked])
        clusters = Clusters.by(self.user[asked], len(asked), "users")
        metrics = {name: values.astype(np.float32) for name, values in found.items()}
        return RowMetrics(asked.astype(np.uint64), metrics, clusters)

    def losses(self, logits: Floats) -> RowMetrics:
        """The losses of the same model."""
        found = losses_of(self.is_positive, scipy.special.expit(logits[self.item])).astype(np.float32)
        clusters = Clusters.by(self.user, EVENTS, "users")
        values = {"log_loss": found, "is_positive": self.is_positive}
        return RowMetrics(np.arange(EVENTS, dtype=np.uint64), values, clusters)

    def shuffled(self) -> Floats:
        """Logits in a random order within the popular items, but for the ten that are first of all."""
        logits = self.logits.copy()
        some = np.argsort(-logits[:POPULAR])[10:]
        logits[some] = logits[np.random.default_rng(1).permutation(some)]
        return logits


@pytest.fixture(scope="module")
def log() -> Log:
    return Log.draw()


def judged(log: Log, experiment: Experiment, logits: Floats, with_losses: bool = True) -> Judgement:
    """A model against that of the true logits."""
    losses = Paired(log.losses(logits), log.losses(log.logits)) if with_losses else None
    queries = Paired(log.queries(logits), log.queries(log.logits))
    return judge_metrics(Evaluated(queries, losses), experiment)


def test_a_random_order_of_the_popular_items_is_refused(log: Log, experiment: Experiment) -> None:
    shuffled = log.shuffled()
    areas = [Auc(log.is_positive, logits[log.item])() for logits in (log.logits, shuffled)]
    assert areas[0] - areas[1] > 0.15
    by_rankings, _ = judged(log, experiment, shuffled, with_losses=False)
    assert by_rankings.holds  # nDCG@10 does not see it
    assert by_rankings.warning.startswith("the champion's nDCG@10 is 0.0")
    assert "less than two margins of 0.01" in by_rankings.warning
    result, measured = judged(log, experiment, shuffled)
    assert not result.holds and result.lower_is_better
    assert result.bound == 0.005
    assert result.figure is not None and result.figure > 0.1
    assert result.figure == measured["differences"]["log_loss"]["high"]
    assert f"95 % interval, {USERS} users drawn) over {EVENTS:,} pairs, lower is better" in result.text
    assert result.text.startswith(f"log loss {measured['means']['challenger']['log_loss']:.4f} against ")
    assert result.warning == ""


def test_an_equal_model_and_a_better_one_are_accepted(log: Log, experiment: Experiment) -> None:
    equal, measured = judged(log, experiment, log.logits)
    assert equal.holds and equal.figure == 0
    assert "+0.0000" in equal.text
    worse = log.logits + 1  # every probability is too high, and no order changes
    assert not judged(log, experiment, worse)[0].holds
    losses = Paired(log.losses(log.logits), log.losses(worse))
    queries = log.queries(log.logits)
    better, measured = judge_metrics(Evaluated(Paired(queries, queries), losses), experiment)
    assert better.holds and better.figure is not None and better.figure < -0.05
    wide = dataclasses.replace(experiment, gates=GatesConfig(log_loss_margin=0.2))
    warned = judged(log, wide, log.logits + 0.2)[0].warning
    assert "below that of the base rate" in warned and warned.endswith("lower log_loss_margin")
    assert measured["differences"]["ndcg_at_10"]["mean"] == 0


def written(folder: Path, log: Log, logits: Floats, with_losses: bool = True, score: Score = SIGMOID) -> Path:
    """A bundle that holds the metrics of a model."""
    made = releases.small_bundle(
        folder, "clicks", score=score, quality={**releases.QUALITY, **releases.OF_LABELS}
    )

    def change(draft: Path) -> None:
        per_query.save(log.queries(logits), draft)
        if with_losses:
            per_query.save(log.losses(logits), draft, PAIRS)

    return altered.altered(made, folder, change)


def compared(
    challenger: Path,
    champion: Path,
    experiment: Experiment,
    folder: Path,
    data: Callable[[], TrainingData] = releases.no_data,
) -> Comparison:
    sides = altered.side("2", challenger), altered.side("1", champion)
    return Comparison(*sides, experiment, data, folder)


def runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Comparison, "challenger_runs", True)


def test_bundles_are_judged_by_the_losses_that_they_hold(
    log: Log, experiment: Experiment, tmp_path: Path
) -> None:
    champion = written(tmp_path / "1", log, log.logits)
    for logits, holds in ((log.shuffled(), False), (log.logits, True)):
        comparison = compared(written(tmp_path / f"{holds}", log, logits), champion, experiment, tmp_path)
        found = quality.judge(comparison)
        assert found is not None
        result, measured = found
        assert result.holds == holds
        assert measured["evaluated_anew"] == ""
        assert comparison.quality_change is not None
        assert {"log_loss", "ndcg_at_10"} <= set(comparison.quality_change)
        gate = GATES["quality"]
        assert gate.shown_bound(result.bound, result.lower_is_better) == "≤ +0.0050"
        assert summary(result)["shown_bound"] == "≤ +0.0050"
        decision = Decision(comparison.challenger, comparison.champion, (result,), {"quality": measured})
        text = page(decision)
        assert "| **log loss, lower is better** |" in text
        clicked = len(np.unique(log.user[log.is_positive]))
        assert (measured["drawn"], measured["drawn_pairs"]) == (f"{clicked} users", f"{USERS} users")
        assert f"{clicked} users drawn, and of log loss {USERS} users." in text


def test_the_metric_of_the_toml_still_decides_where_it_is_set(
    log: Log, experiment: Experiment, tmp_path: Path
) -> None:
    asked = dataclasses.replace(experiment, gates=GatesConfig(quality_metric="ndcg_at_10"))
    sides = written(tmp_path / "2", log, log.shuffled()), written(tmp_path / "1", log, log.logits)
    found = quality.judge(compared(*sides, asked, tmp_path))
    assert found is not None and found[0].holds and found[1]["metric"] == "ndcg_at_10"


def test_bundles_of_other_pairs_are_evaluated_again(
    log: Log, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs(monkeypatch)
    challenger = written(tmp_path / "2", log, log.logits)

    def cut(draft: Path) -> None:
        per_query.save(log.losses(log.logits).some(np.arange(100, EVENTS)), draft, PAIRS)

    champion = altered.altered(challenger, tmp_path / "1", cut)
    found = quality.judge(compared(challenger, champion, experiment, tmp_path, labelled_data))
    assert found is not None
    assert found[1]["evaluated_anew"] == "the bundles hold other pairs"


def test_scores_that_are_no_probabilities_are_judged_by_rankings(
    log: Log, experiment: Experiment, tmp_path: Path
) -> None:
    challenger = written(tmp_path / "2", log, log.logits, False, Score("inner_product"))
    champion = written(tmp_path / "1", log, log.logits)
    found = quality.judge(compared(challenger, champion, experiment, tmp_path))
    assert found is not None
    assert found[0].text.endswith("; the scores of version 2 are no probabilities, so nDCG@10 decides")
    assert not found[0].lower_is_better


def test_a_refresh_without_figures_counts_as_no_change_of_log_loss(
    log: Log, experiment: Experiment, tmp_path: Path
) -> None:
    champion = written(tmp_path / "1", log, log.logits)

    def forget(draft: Path) -> None:
        (draft / bundle.REPORTS / per_query.QUERIES.name).unlink()
        (draft / FILE).unlink()

    refreshed = Refreshed("1" * 64, "2" * 64)
    challenger = altered.altered(champion, tmp_path / "2", forget, refreshed_from=refreshed)
    comparison = compared(challenger, champion, experiment, tmp_path)
    found = quality.judge(comparison)
    assert found is not None and found[0].holds and found[0].figure is None
    assert comparison.quality_change == {"log_loss": 0.0, "ndcg_at_10": 0.0}


def test_a_refresh_that_lacks_some_pairs_is_compared_on_the_others(
    log: Log, experiment: Experiment, tmp_path: Path
) -> None:
    champion = written(tmp_path / "1", log, log.logits)
    kept = np.arange(100, EVENTS)

    def cut(draft: Path) -> None:
        per_query.save(log.losses(log.logits).some(kept), draft, PAIRS)

    refreshed = Refreshed("1" * 64, "2" * 64)
    challenger = altered.altered(champion, tmp_path / "2", cut, refreshed_from=refreshed)
    found = quality.judge(compared(challenger, champion, experiment, tmp_path))
    assert found is not None and found[0].holds and found[0].figure == 0
    assert found[1]["pairs"] == EVENTS - 100


def labelled_data() -> TrainingData:
    """Some of the tiny bundle's items, asked for by their names, with labels."""
    names, ids = tiny.item_names(60), tiny.item_ids(60)
    rows = np.arange(240)
    pairs = Pairs(
        rows % 60, rows * 7 % 60, np.ones(240, np.float32), (rows % 3 == 0).astype(np.float32), rows % 12
    )
    none = pairs.where(np.zeros(240, np.bool_))
    parts = {"train": pairs, "validation": none, "test": pairs, "cold": none}
    return TrainingData({"text": names}, {"text": names}, parts, 60, 60, ids)


def test_bundles_without_losses_are_evaluated_again(
    log: Log,
    experiment: Experiment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs(monkeypatch)
    champion = written(tmp_path / "1", log, log.logits, False)
    challenger = altered.altered(champion, tmp_path / "2", altered.annotate)
    found = quality.judge(compared(challenger, champion, experiment, tmp_path, labelled_data))
    assert found is not None
    result, measured = found
    why = "the challenger brings no log loss of single pairs"
    assert measured["evaluated_anew"] == why
    assert f"over 240 pairs, lower is better; both evaluated again, because {why}" in result.text
    assert measured["queries"] == 20
    assert result.figure == 0


def test_the_losses_travel_with_the_bundle(log: Log, tmp_path: Path) -> None:
    folder = written(tmp_path, log, log.logits)
    found, expected = per_query.load(folder, PAIRS), log.losses(log.logits)
    assert found is not None
    assert np.array_equal(found.rows, expected.rows)
    assert np.array_equal(found.metrics["log_loss"], expected.metrics["log_loss"])
    assert str(found.clusters) == f"{USERS} users"
    share = log.is_positive.mean()
    entropy = -(share * np.log(share) + (1 - share) * np.log(1 - share))
    assert pair_losses.base_rate_loss(found) == pytest.approx(entropy)

    def rename(draft: Path) -> None:
        with np.load(draft / FILE) as file:
            arrays: Any = {name: file[name] for name in file.files}
        np.savez(draft / FILE, losses=arrays.pop("log_loss"), **arrays)

    before = per_query.load(altered.altered(folder, tmp_path, rename), PAIRS)  # of an earlier version
    assert before is not None and before.means() == found.means()


def test_pairs_are_known_again_in_another_order_and_without_some() -> None:
    data = labelled_data()
    products = np.linspace(-1, 1, 240, dtype=np.float32)
    all_pairs = pair_losses.measure(data, products, SIGMOID)
    assert all_pairs is not None
    assert len(np.unique(all_pairs.rows)) == 240  # 60 different ones
    kept = np.arange(240) % 60 != 5
    fewer = dataclasses.replace(data, parts={**data.parts, "test": data.parts["test"].where(kept)})
    some = pair_losses.measure(fewer, products[kept], SIGMOID)
    assert some is not None
    one, other = per_query.common(all_pairs, some)
    assert len(one.rows) == len(other.rows) == 236
    assert one.means()["log_loss"] == pytest.approx(other.means()["log_loss"])
    assert pair_losses.measure(data, products, Score()) is None
    assert pair_losses.measure(data, None, SIGMOID) is None


@pytest.mark.parametrize(("lost", "holds"), [(0.001, True), (0.003, False), (-0.003, True)])
def test_losses_that_each_keep_the_margin_are_refused_together(
    log: Log,
    experiment: Experiment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lost: float,
    holds: bool,
) -> None:
    moves = log_of(
        ("promote", "", "1", {}),
        ("promote", "1", "2", {"log_loss": lost, "ndcg_at_10": -0.5}),
        ("promote", "2", "3", {"log_loss": lost, "ndcg_at_10": -0.5}),
    )
    monkeypatch.setattr(audit_log, "read", lambda _: moves)
    folder = written(tmp_path, log, log.logits)
    sides = altered.side("4", folder), altered.side("3", folder)
    comparison = Comparison(*sides, experiment, releases.no_data, tmp_path)
    comparison.quality_change = {"log_loss": 0.0, "ndcg_at_10": 0.0}
    found = quality_history.judge(comparison)
    assert found is not None
    result, _ = found
    assert result.holds == holds and result.lower_is_better
    assert result.bound == 0.005
    worst = max(lost, 2 * lost)
    assert result.figure == pytest.approx(worst)
    assert (
        f"log loss {worst:+.4f} against version {1 if lost > 0 else 2}, the best of 2 champions"
        in result.text
    )
    assert "as measured at each promotion, lower is better" in result.text
