"""Recent popularity beside trained towers: what is added, and what validation chooses.

`test_refit.py` tests that a run holds it.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.people import both_sides, data_of_people, schema_of_people
from tests.train.evaluation.test_history_baselines import fitter
from tests.train.evaluation.test_history_baselines import timed as with_times
from twinspire.protos.features import Schema, TimeFeature
from twinspire.train.config.history_towers import SequenceTower
from twinspire.train.config.losses import FullSoftmax
from twinspire.train.config.training import TrainingConfig
from twinspire.train.data.recency import DAY
from twinspire.train.data.training_data import TrainingData
from twinspire.train.models.recent_popularity import EventsByPeriod
from twinspire.train.models.tower_factory import architecture_of
from twinspire.train.training.blending import HALF_LIVES, add_as_chosen, add_recent_popularity
from twinspire.train.training.checkpoint import load_towers, save_towers
from twinspire.train.training.trainer import Trainer

ITEMS, PEOPLE, EVENTS = 30, 200, 6


def timed(items_of: Any) -> TrainingData:
    """People with six events each, over 120 days, of what `items_of` draws for a day."""
    random = np.random.default_rng(0)
    days = np.sort(random.uniform(0, 120, (PEOPLE, EVENTS)), axis=1)
    people = [[int(items_of(random, day)) for day in each] for each in days]
    times = (1e9 + DAY * days.reshape(-1)).tolist()
    data = with_times(data_of_people(people, ITEMS, exclude_seen=False), times)
    return replace(data, queries={**data.queries, "time": times})


@pytest.fixture(scope="module")
def fashions() -> TrainingData:
    """Data where each day's events are of a few items, which change from week to week."""
    return timed(lambda random, day: (3 * int(day / 7) + random.integers(0, 3)) % ITEMS)


@pytest.fixture(scope="module")
def hits() -> TrainingData:
    """Data where five items have all events of twenty days, and each of them more than the next."""
    shares = [0.5, 0.25, 0.15, 0.06, 0.04]
    return timed(lambda random, day: (5 * int(day / 20) + random.choice(5, p=shares)) % ITEMS)


@pytest.fixture(scope="module")
def steady() -> TrainingData:
    """Data where items are as popular on all days."""
    return timed(lambda random, _: random.integers(0, ITEMS))


def untrained(data: TrainingData, **keys: Any) -> Trainer:
    """Towers with random weights, which score all items nearly alike."""
    torch.manual_seed(0)
    config = SequenceTower("sequence", dimension=8, recent_popularity=16, **keys)
    plain = schema_of_people(ITEMS)
    schema = Schema({**plain.query, "time": TimeFeature("time")}, plain.item, plain.vocabularies)
    prepared = both_sides(schema, data, config)
    settings = TrainingConfig(batch_size=100, selection="ndcg_at_10")
    return Trainer(
        architecture_of(config).build(schema), data, prepared, FullSoftmax("full_softmax"), settings
    )


def scores(trainer: Trainer) -> torch.Tensor:
    items = trainer.item_vectors()  # first, because it sets the radius
    return trainer.query_vectors() @ items.T


def test_what_changes_with_time_is_found_on_validation_and_holds_on_test(fashions: TrainingData) -> None:
    trainer = untrained(fashions)
    before = trainer.evaluate("test")["ndcg_at_10"]
    found = add_recent_popularity(trainer, "ndcg_at_10")
    assert found is not None
    assert found.weight > 0.5
    assert found.settings["half_life_days"] in HALF_LIVES[:4]  # a fashion lasts a week
    assert found.after > found.before + 0.2
    assert trainer.evaluate("validation")["ndcg_at_10"] == pytest.approx(found.after, abs=1e-6)
    assert trainer.evaluate("test")["ndcg_at_10"] > before + 0.2


def test_where_recency_carries_the_ranking_the_share_itself_is_taken_and_may_outweigh_all_else(
    hits: TrainingData,
) -> None:
    trainer, by_change = untrained(hits), untrained(hits)
    found = add_recent_popularity(trainer, "ndcg_at_10")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("twinspire.train.training.blending.FORMS", ("change",))
        add_recent_popularity(by_change, "ndcg_at_10")
    assert found is not None
    assert found.parameters()["form"] == "share"
    assert "(form share, " in found.line()
    assert found.weight > 1
    assert trainer.evaluate("test")["ndcg_at_10"] > by_change.evaluate("test")["ndcg_at_10"] + 0.05


@pytest.mark.parametrize("log", ["fashions", "hits"])
def test_scores_are_the_sum_of_those_of_the_towers_and_of_recent_popularity(
    log: str, request: pytest.FixtureRequest
) -> None:
    data: TrainingData = request.getfixturevalue(log)
    plain, trainer = untrained(data), untrained(data)
    found = add_recent_popularity(trainer, "ndcg_at_10")
    assert found is not None
    train = data.parts["train"]
    assert train.time is not None
    assert data.moments is not None
    events = EventsByPeriod(train.time, train.item, ITEMS)
    periods, items = events.factors(found.settings["form"], found.settings["half_life_days"], 16)
    asked = np.searchsorted(events.begins, np.floor(data.moments), side="right")
    added = torch.from_numpy(periods[asked] @ items.T).float()
    expected = scores(plain) + found.weight * found.unit * added
    torch.testing.assert_close(scores(trainer), expected, atol=1e-4, rtol=1e-4)


def test_what_is_popular_later_changes_nothing_but_the_usual_share(fashions: TrainingData) -> None:
    """Other items are popular after day 60: what was popular on day 50 beside its usual share stays first."""
    train = fashions.parts["train"]
    assert train.time is not None
    until = train.time < 1e9 + 60 * DAY
    whole = EventsByPeriod(train.time, train.item, ITEMS)
    day = int(np.searchsorted(whole.begins, 1e9 + 50 * DAY))
    ours = whole.matrix("change", 7.0)[day]
    late = np.where(until, train.item, ITEMS - 1 - train.item)
    theirs = EventsByPeriod(train.time, late, ITEMS).matrix("change", 7.0)[day]
    first = np.argsort(-ours)[:3]
    assert {*first.tolist()} == {*np.argsort(-theirs)[:3].tolist()}  # their usual shares differ


def test_towers_to_which_it_adds_nothing_lose_their_coordinates(steady: TrainingData, tmp_path: Path) -> None:
    trainer, fresh = untrained(steady), untrained(steady)
    width = trainer.item_vectors().shape[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("twinspire.train.training.part_weights.choose_weight", lambda *_: 0.0)
        found = add_recent_popularity(trainer, "ndcg_at_10")
    assert found is not None
    assert "is left out" in found.line()
    assert found.line().endswith(f"; {found.users:,} users")
    assert trainer.item_vectors().shape[1] == width - 16
    save_towers(tmp_path / "towers.pt", trainer.towers)
    load_towers(tmp_path / "towers.pt", fresh.towers)
    fresh.clear_cached_vectors()
    torch.testing.assert_close(scores(fresh), scores(trainer))


def test_other_towers_get_what_was_chosen(fashions: TrainingData) -> None:
    first, second = untrained(fashions), untrained(fashions)
    found = add_recent_popularity(first, "ndcg_at_10")
    assert found is not None
    add_as_chosen(second, fitter(fashions), [replace(found, weight=0.7 * found.weight)])
    plain = scores(untrained(fashions))
    torch.testing.assert_close(scores(second) - plain, 0.7 * (scores(first) - plain), atol=1e-3, rtol=1e-3)


def test_it_stands_beside_a_linear_model(fashions: TrainingData) -> None:
    """The linear model's coordinates come first, and keep their weight."""
    trainer = untrained(fashions, linear=8)
    for tower in trainer.towers:
        assert tower.mixture is not None
        with torch.no_grad():
            tower.mixture.encoder.table.normal_()  # type: ignore[operator]
        tower.mixture.set_weights(2.0, 1.0)
    trainer.clear_cached_vectors()
    linear = trainer.query_vectors()[:, :8].clone()
    found = add_recent_popularity(trainer, "ndcg_at_10")
    assert found is not None
    assert found.weight > 0
    vectors = trainer.query_vectors()
    assert vectors.shape[1] == 8 + 16 + 8 + 1
    # The radius of the inner product, a common factor, may have changed.
    ratio = vectors[:, :8].norm() / linear.norm()
    torch.testing.assert_close(vectors[:, :8], linear * ratio, atol=1e-3, rtol=1e-5)
