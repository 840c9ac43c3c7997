"""The baselines of histories against slower references, and how their parameters are chosen."""

import io
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.sparse
from rich.console import Console

from tests.helpers.people import data_of_people, random_people
from twinspire.protos.errors import ConfigError
from twinspire.protos.toml_config import to_table
from twinspire.train.config import Experiment, read_experiment
from twinspire.train.config.baselines import NAMES, BaselinesConfig
from twinspire.train.config.training import TrainingConfig
from twinspire.train.data.recency import DAY, WHOLE, RecentShares
from twinspire.train.data.training_data import Pairs, TrainingData
from twinspire.train.evaluation import ranking
from twinspire.train.evaluation.baselines import (
    BASELINES,
    baselines,
    ease,
    ease_recent,
    itemknn,
    left_out,
    slist,
)
from twinspire.train.evaluation.label_baselines import LABEL_BASELINES
from twinspire.train.evaluation.ranking import BaselineFitter, Tuning, rank_by_scores, summed
from twinspire.train.evaluation.warnings import run_warnings
from twinspire.train.metrics import mean, per_query
from twinspire.train.models import collaborative
from twinspire.train.models.collaborative import history_matrix, interaction_matrix
from twinspire.train.paths import ROOT

ITEMS = 25
Floats = npt.NDArray[np.float64]


def experiment_with(**sections: Any) -> Experiment:
    known = read_experiment(ROOT / "train/configs/movielens.toml")
    return replace(known, **{"item": {"id": known.item["id"]}, **sections})  # people's items have ids alone


def timed(data: TrainingData, times: Sequence[float]) -> TrainingData:
    """The data of people with a time for each event; query n is asked at the time of event n."""
    moments = np.asarray(times, np.float64)
    parts = {
        name: Pairs(pairs.query, pairs.item, pairs.weight, time=moments[pairs.query])
        for name, pairs in data.parts.items()
    }
    return replace(data, parts=parts, moments=moments)


def with_steps(data: TrainingData, steps: Sequence[int]) -> TrainingData:
    assert data.histories is not None
    return replace(data, histories=replace(data.histories, steps=np.asarray(steps)))


@pytest.fixture(scope="module")
def data() -> TrainingData:
    """People who begin at different times and take an item a day."""
    people = random_people(60, ITEMS)
    begun = np.random.default_rng(1).integers(0, 200, len(people))
    times = [(begin + n) * DAY for begin, each in zip(begun, people, strict=True) for n in range(len(each))]
    return timed(data_of_people(people, ITEMS), times)


def fitter(data: TrainingData, **sections: Any) -> BaselineFitter:
    return BaselineFitter(experiment_with(**sections), data)


def test_the_names_of_all_baselines_are_known() -> None:
    assert sorted(each.name for each in (*BASELINES, *LABEL_BASELINES)) == sorted(NAMES)


def test_all_baselines_of_histories_run_and_progress_is_shown(data: TrainingData) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    found = baselines(experiment_with(), data, console)
    assert [*found] == [
        "popularity",
        "recent_popularity",
        "itemknn",
        "slist",
        "ease",
        "ease_recency",
        "ease_recent",
    ]
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "7/7" in shown
    assert set(found["ease_recent"].settings) == {"lambda", "decay", "own", "days", "power", "content"}
    queries, relevant = data.parts["test"].by_query()
    quality = {name: mean(per_query(rank(queries), relevant))["hr_at_10"] for name, rank in found.items()}
    assert quality["slist"] > quality["popularity"] + 0.1  # each item is mostly followed by the next
    assert quality["ease_recency"] > quality["ease"] > quality["popularity"]


def test_what_a_run_has_chosen_is_not_chosen_again(
    data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fitter(data)
    expected = baselines(experiment_with(), data, fitter=first)
    again = BaselineFitter(experiment_with(), data, stored=json.loads(json.dumps(to_table(first.choices))))

    def refuse(fitter: BaselineFitter) -> Tuning:
        raise AssertionError("a choice was made again")

    monkeypatch.setattr(BaselineFitter, "tuning", refuse)
    found = baselines(experiment_with(), data, fitter=again)
    queries, _ = data.parts["test"].by_query()
    for name, each in found.items():
        assert each.settings == expected[name].settings
        np.testing.assert_array_equal(each(queries), expected[name](queries))
    with pytest.raises(AssertionError, match="made again"):
        baselines(experiment_with(), data, fitter=fitter(data))


def test_the_toml_says_which_baselines_run(data: TrainingData, tmp_path: Any) -> None:
    experiment = experiment_with(baselines=BaselinesConfig(run=("ease", "popularity")))
    assert [*baselines(experiment, data)] == ["popularity", "ease"]
    text = (ROOT / "train/configs/movielens.toml").read_text()
    path = tmp_path / "a.toml"
    path.write_text(text + '\n[baselines]\nrun = ["ease", "eese"]\n')
    with pytest.raises(
        ConfigError, match=r"baselines\.run: there is no baseline 'eese'; there are base_rate, bm25, "
    ):
        read_experiment(path)


def test_a_baseline_that_was_asked_for_and_does_not_apply_is_named(data: TrainingData) -> None:
    experiment = experiment_with(baselines=BaselinesConfig(run=("bm25", "ease_recent", "slist")))
    without = data_of_people(random_people(20, ITEMS), ITEMS)
    told = ["baselines.run: bm25 is not measured: it needs texts on both sides"]
    assert left_out(experiment, data) == told
    losses = {1: 0.5}
    assert run_warnings(experiment, data, {"queries": 300.0}, 1, losses) == told
    of_times = "baselines.run: ease_recent is not measured: it needs histories with times"
    assert left_out(experiment, without) == [told[0], of_times]
    assert left_out(experiment_with(), without) == []


def test_a_history_weighs_an_item_less_with_each_later_step() -> None:
    data = data_of_people([[0, 1, 0, 2, 3]], 4, exclude_seen=False)
    found = history_matrix(data, np.array([4, 2, 0]), 0.5).toarray()
    # Item 0 counts where it occurs last.
    assert found.tolist() == [[0.5, 0.25, 1, 0], [0.5, 1, 0, 0], [0, 0, 0, 0]]
    every = history_matrix(data, np.array([4]), 0.5, every=True).toarray()  # of all events of an item
    assert every.tolist() == [[0.5 + 0.125, 0.25, 1, 0]]
    by_session = with_steps(data, [7, 7, 8, 8, 9])
    assert history_matrix(by_session, np.array([4]), 0.5).toarray().tolist() == [[1, 0.5, 1, 0]]


@pytest.mark.parametrize("days", [1.0, 5.0, WHOLE])
def test_recent_shares_equal_a_loop_over_events(data: TrainingData, days: float) -> None:
    train, queries = data.parts["train"], data.parts["test"].query
    assert train.time is not None and data.moments is not None
    shares = RecentShares(data).of(queries, days)
    last = train.time.max()
    for query, found in zip(queries, shares, strict=True):
        moment = data.moments[query]
        begin = min(moment, last) - days * DAY if days != WHOLE else -1
        inside = (train.time < moment) & (train.time >= begin)
        counts = np.bincount(train.item[inside], minlength=ITEMS)
        np.testing.assert_allclose(found, counts / max(1, inside.sum()), atol=1e-6)


def test_ease_times_recent_popularity_is_the_product(data: TrainingData) -> None:
    weights = collaborative.ease(interaction_matrix(data), 3.0)
    queries = data.parts["test"].query
    shares = RecentShares(data)
    settings = ease_recent.RecentSettings(decay=0.8, days=7.0, power=0.5)
    found = ease_recent.scorer(summed(data, weights, 0.8), shares, settings)(queries)
    score = history_matrix(data, queries, 0.8).toarray() @ weights
    recent = 0.95 * shares.of(queries, 7.0) + 0.05 * shares.of(queries, WHOLE)
    np.testing.assert_allclose(found, (score.clip(min=0) + 1e-6) * np.sqrt(recent), atol=1e-6)
    plain = ease_recent.scorer(summed(data, weights, 0.8), shares, replace(settings, power=0.0))(queries)
    np.testing.assert_allclose(plain, score, atol=1e-6)


def test_the_window_and_the_power_are_those_that_validation_prefers() -> None:
    """Everyone takes what is in season, whatever they took before: a season lasts ten days."""
    people, times, draw = [], [], np.random.default_rng(0)
    seasons = [draw.choice(ITEMS, 4, replace=False) for _ in range(15)]
    for n in range(150):
        season = n // 10
        people.append(draw.permutation(seasons[season]).tolist())
        times += [(season * 10 + n % 10 + 0.01 * k) * DAY for k in range(4)]
    seasonal = timed(data_of_people(people, ITEMS), times)
    shared = fitter(seasonal, training=TrainingConfig(selection="ndcg_at_10"))
    recent = next(each for each in BASELINES if each.name == "recent_popularity").fit(shared)
    assert recent.settings["days"] in (1.0, 2.0, 4.0, 7.0, 14.0)
    product = ease_recent.BASELINE.fit(shared)
    assert product.settings["power"] > 0
    assert product.settings["lambda"] == ease.strength(shared)


def test_equal_scores_are_in_the_order_of_popularity_then_of_the_rows() -> None:
    data = data_of_people([[4, 1, 2], [3, 3, 4, 1, 2]], 6, exclude_seen=False)
    assert data.counts().tolist() == [0, 0, 0, 2, 2, 0]
    scores = np.array([0.0, -1.0, 2.0, -0.0, 2.0, -np.inf], np.float32)
    assert rank_by_scores(data, scores)(np.array([2])).tolist() == [[4, 2, 3, 0, 1, -1]]


def test_a_query_that_a_linear_model_knows_nothing_of_gets_popular_items() -> None:
    people = [*[[5, 4, 3, 2]] * 6, *[[4, 3, 2, 1]] * 3, *[[3, 1, 0, 2]] * 2]
    data = data_of_people(people, 7, exclude_seen=False)
    assert data.counts().tolist() == [0, 2, 0, 5, 9, 6, 0]
    shared, without = fitter(data), np.array([0])
    assert data.histories is not None and not len(data.histories.rows(0))
    for each in (ease.BASELINE, ease.RECENCY, slist.BASELINE, itemknn.BASELINE):
        assert each.fit(shared)(without).tolist() == [[4, 5, 3, 1, 0, 2, 6]], each.name


@pytest.fixture
def many_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "FEW_USERS", 0)


def searched(data: TrainingData, curve: Sequence[float], start: int) -> tuple[float, list[float]]:
    """The value that a search takes from these places of a curve, and the values that it tries."""
    tuning, tried = Tuning(experiment_with(), data, lambda _: None), list[float]()

    def quality(settings: Any) -> Floats:
        tried.append(settings.strength)
        return np.array([curve[settings.strength]])

    tuning.quality = quality  # type: ignore[method-assign, assignment]
    settings: Any = ease.EaseSettings(start)
    found = tuning.search(settings, [("strength", [*range(len(curve))])], lambda each: each)
    return found.strength, sorted(tried)


@pytest.mark.usefixtures("many_users")
def test_a_search_finds_the_peak_in_either_direction_and_steps_over_equal_values(data: TrainingData) -> None:
    rise = [0.0, 1, 2, 3, 4, 5, 6, 5, 4]
    assert searched(data, rise, 3) == (6, [3, 4, 5, 6, 7])
    assert searched(data, rise[::-1], 5) == (2, [1, 2, 3, 4, 5, 6])
    plateau = [0.0, 3, 1, 1, 1, 1, 2, 2, 1, 9]
    assert searched(data, plateau, 3)[0] == 6
    assert searched(data, plateau[:6], 4)[0] == 1


@pytest.mark.usefixtures("many_users")
def test_settings_are_searched_until_no_field_changes(data: TrainingData) -> None:
    """The best value of the first field is another one once the second has changed."""
    tuning = Tuning(experiment_with(), data, lambda _: None)
    tried: list[slist.SlistSettings] = []

    def quality(settings: Any) -> npt.NDArray[np.float64]:
        tried.append(settings)
        return np.array([-((settings.tau - 4 * settings.alpha) ** 2) - 8 * (settings.alpha - 0.8) ** 2])

    tuning.quality = quality  # type: ignore[method-assign, assignment]
    ranges = [("tau", (0.8, 1.6, 2.4, 3.2)), ("alpha", slist.ALPHAS)]
    start = slist.SlistSettings(alpha=0.2, tau=0.8)
    found = tuning.search(start, ranges, lambda settings: settings)  # type: ignore[arg-type, return-value]
    assert (found.alpha, found.tau) == (0.6, 2.4)  # a single round ends at .4 and .8
    assert len(tried) == len({*tried})


def test_by_few_users_a_better_setting_must_be_better_beyond_chance(
    data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = len(data.parts["validation"])
    lucky, real = np.zeros((2, users))
    lucky[0], real[::2] = 1, 1

    def chosen(gain: Floats) -> float:
        """The better value is the last one."""
        tuning = Tuning(experiment_with(), data, lambda _: None)
        tuning.quality = lambda value: gain * value.decay  # type: ignore
        same: Any = lambda value: value  # noqa: E731
        return tuning.search(slist.SlistSettings(decay=0.2), [("decay", [0.1, 0.2, 0.5])], same).decay

    assert chosen(lucky) == 0.2
    assert chosen(real) == 0.5
    monkeypatch.setattr(ranking, "FEW_USERS", users)
    assert chosen(lucky) == 0.5


def test_above_its_limit_a_baseline_reads_the_items_with_most_events(
    data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EASE and SLIST had no figure on large catalogues, and the tower no linear model."""
    for module in (ease, slist):
        monkeypatch.setattr(module, "LARGEST", 10)
    popular = np.sort(np.argsort(-data.counts(), kind="stable")[:10])
    found, shared = baselines(experiment_with(), data), fitter(data)
    assert {"itemknn", "slist", "ease", "ease_recency", "ease_recent"} <= {*found}
    assert found["ease"].settings["items"] == found["slist"].settings["items"] == 10
    assert "items" not in found["itemknn"].settings
    queries = data.parts["test"].query
    weights = ease.weights(shared)
    expected = collaborative.ease(interaction_matrix(data)[:, popular], ease.strength(shared))
    np.testing.assert_allclose(weights.values, expected, atol=1e-5)
    scores = weights.scores(data, queries, 0.8)
    others = np.setdiff1d(np.arange(ITEMS), popular)
    assert not scores[:, others].any()
    history = history_matrix(data, queries, 0.8)[:, popular]
    np.testing.assert_allclose(scores[:, popular], history @ expected, atol=1e-5)


def people_who_repeat(count: int) -> list[list[int]]:
    """Each has five items and takes them again and again, the late ones more often."""
    draw = np.random.default_rng(0)
    own = [draw.choice(ITEMS, 5, replace=False) for _ in range(count)]
    return [[*each, *draw.choice(each, 12, p=(0.4, 0.3, 0.1, 0.1, 0.1))] for each in own]


def test_where_purchases_repeat_an_item_counts_for_itself() -> None:
    repeating = data_of_people(people_who_repeat(120), ITEMS, exclude_seen=False)
    shared = fitter(repeating, training=TrainingConfig(selection="ndcg_at_10"))
    found = baselines(shared.experiment, repeating, fitter=shared)
    queries, relevant = repeating.parts["test"].by_query()
    quality = {name: mean(per_query(rank(queries), relevant))["ndcg_at_10"] for name, rank in found.items()}
    for name in ("ease_recency", "itemknn"):
        assert found[name].settings["own"] > 0
        assert quality[name] > quality["ease"] + 0.1
    once = fitter(data_of_people(random_people(60, ITEMS), ITEMS))
    assert ease.recency_weights(once)[1].own == 0


def test_large_data_are_tuned_on_their_popular_items(data: TrainingData) -> None:
    assert data.histories is not None
    times = np.arange(len(data.histories.run), dtype=np.float64)
    data = replace(data, histories=replace(data.histories, times=times))
    fewer = fitter(data).tuning(items=10, queries=15).data
    popular = sorted(np.argsort(-data.counts(), kind="stable")[:10].tolist())
    assert fewer.item_count == 10
    assert fewer.counts().tolist() == data.counts()[popular].tolist()
    assert len(np.unique(fewer.parts["validation"].query)) <= 15
    assert data.histories is not None and fewer.histories is not None
    for query in data.parts["validation"].query:
        kept = [popular.index(item) for item in data.histories.rows(query) if item in popular]
        assert fewer.histories.rows(query).tolist() == kept
    assert fewer.histories.times is not None
    assert fewer.histories.times.tolist() == times[np.isin(data.histories.run, popular)].tolist()
    assert fewer.parts["train"].time is not None


def test_ease_is_the_same_by_halves_and_in_single_precision() -> None:
    count = 600
    chosen = np.random.default_rng(0).random((900, count)) < np.linspace(0.001, 0.2, count)
    matrix = scipy.sparse.csr_matrix(chosen.astype(np.float32))
    gram = (matrix.T @ matrix).toarray().astype(np.float64)
    for strength in (0.05, 30.0):  # below and above what single precision allows
        inverse = np.linalg.inv(gram + strength * np.eye(count))
        expected = -inverse / np.diag(inverse)
        np.fill_diagonal(expected, 0)
        np.testing.assert_allclose(collaborative.ease(matrix, strength), expected, atol=2e-5)


@pytest.mark.usefixtures("many_users")
def test_lambda_and_decay_of_ease_are_the_best_of_those_near(data: TrainingData) -> None:
    shared = fitter(data, training=TrainingConfig(selection="ndcg_at_10"))
    tuning, chosen = shared.tuning(), ease.strength(shared)

    def quality(strength: float, decay: float = 1.0) -> float:
        weights = collaborative.ease(interaction_matrix(data), strength)
        return float(tuning.quality(summed(data, weights, decay)).mean())

    assert quality(chosen) == max(quality(chosen * factor) for factor in (3, 1, 1 / 3))
    found = ease.RECENCY.fit(shared).settings
    assert found["decay"] < 1  # the next item follows the last
    assert quality(chosen, found["decay"]) > quality(chosen)


def reference_slist(data: TrainingData, settings: slist.SlistSettings) -> Floats:
    """The weights from matrices S and T that are built border by border."""
    past, future, together = [], [], []
    assert data.histories is not None
    train = data.parts["train"]
    for user in np.unique(data.histories.begin[train.query]):
        items = train.item[data.histories.begin[train.query] == user]
        together.append(np.bincount(items, minlength=ITEMS).clip(max=1))
        for border in range(1, len(items)):
            before, after = np.zeros(ITEMS), np.zeros(ITEMS)
            for place, item in enumerate(items):
                distance = border - 1 - place if place < border else place - border
                if distance <= slist.REACH * settings.tau:
                    (before if place < border else after)[item] += math.exp(-distance / settings.tau)
            past.append(before)
            future.append(after)
    s, t, x = np.array(past), np.array(future), np.array(together)
    rest = 1 - settings.alpha
    matrix = settings.alpha * x.T @ x + rest * s.T @ s + settings.strength * np.eye(ITEMS)
    return np.asarray(np.linalg.solve(matrix, settings.alpha * x.T @ x + rest * s.T @ t))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_slist_equals_a_regression_built_border_by_border(data: TrainingData, alpha: float) -> None:
    settings = slist.SlistSettings(alpha=alpha, tau=1.5, strength=5.0, decay=0.7)
    queries = data.parts["test"].query
    expected = history_matrix(data, queries, 0.7).toarray() @ reference_slist(data, settings)
    np.testing.assert_allclose(slist.Slist(data).scorer(settings)(queries), expected, atol=1e-4)


def test_borders_of_slist_lie_between_sessions() -> None:
    """Events whose queries have the same history are one step."""
    data = data_of_people([[0, 1, 2, 3, 4, 5]], 6)
    assert data.histories is not None
    ends = np.array([0, 0, 2, 2, 4, 4])
    train = Pairs(np.arange(6), np.arange(6), np.ones(6, np.float32))
    histories = replace(data.histories, end=ends, steps=np.array([3, 3, 4, 4, 5, 5]))
    sessions = replace(data, histories=histories, parts={**data.parts, "train": train})
    past, future = slist.transitions(sessions, 1.0)
    far = math.exp(-1)
    before, after = [[1, 1, 0, 0, 0, 0], [far, far, 1, 1, 0, 0]], [[0, 0, 1, 1, far, far], [0, 0, 0, 0, 1, 1]]
    np.testing.assert_allclose(past.toarray(), np.array(before), atol=1e-6)
    np.testing.assert_allclose(future.toarray(), np.array(after), atol=1e-6)


def test_the_latest_borders_are_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first users are the last in time."""
    people = [[n, n + 1, n + 2, 0, 0] for n in range(6)]
    times = [100.0 * (6 - n // 5) + n % 5 for n in range(30)]
    late_first = timed(data_of_people(people, 8, exclude_seen=False), times)
    every = [each.toarray() for each in slist.transitions(late_first, 1.0)]
    assert len(every[0]) == 12
    monkeypatch.setattr(slist, "LARGEST_TRANSITIONS", 5)
    for found, whole in zip(slist.transitions(late_first, 1.0), every, strict=True):
        np.testing.assert_allclose(found.toarray(), whole[[0, 1, 2, 3, 5]])
