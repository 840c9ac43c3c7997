"""A linear model beside trained towers: what is added, and how its weight is chosen.

`test_refit.py` tests that a run holds it.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.people import both_sides, data_of_people, random_people, schema_of_people
from tests.train.evaluation.test_history_baselines import experiment_with
from twinspire.train.config.history_towers import SequenceTower
from twinspire.train.config.losses import FullSoftmax
from twinspire.train.config.training import TrainingConfig
from twinspire.train.data.training_data import TrainingData
from twinspire.train.evaluation.baselines import ease, slist
from twinspire.train.evaluation.intervals import clusters_of
from twinspire.train.evaluation.ranking import BaselineFitter, rank_by, summed
from twinspire.train.metrics import mean, per_query
from twinspire.train.models.tower_factory import architecture_of
from twinspire.train.training import blending, part_weights
from twinspire.train.training.blending import drop_useless_coordinates, mix
from twinspire.train.training.checkpoint import load_towers, save_towers
from twinspire.train.training.part_weights import WeightCurves
from twinspire.train.training.trainer import Trainer

ITEMS = 40


@pytest.fixture(scope="module")
def data() -> TrainingData:
    return data_of_people(random_people(150, ITEMS), ITEMS)


@pytest.fixture(scope="module")
def fitter(data: TrainingData) -> BaselineFitter:
    """What linear models need, computed once for all tests."""
    return BaselineFitter(experiment_with(training=TrainingConfig(selection="ndcg_at_10")), data)


def untrained(data: TrainingData, linear: int = ITEMS) -> Trainer:
    """Towers with random weights."""
    torch.manual_seed(0)
    config = SequenceTower("sequence", dimension=8, linear=linear)
    schema = schema_of_people(ITEMS)
    towers = architecture_of(config).build(schema)
    settings = TrainingConfig(batch_size=100, selection="ndcg_at_10")
    return Trainer(towers, data, both_sides(schema, data, config), FullSoftmax("full_softmax"), settings)


def ranked(trainer: Trainer) -> Any:
    return trainer.rank(trainer.data.parts["test"].by_query()[0])


def test_the_queries_of_one_user_count_as_one(data: TrainingData, fitter: BaselineFitter) -> None:
    validation = data.parts["validation"]
    pairs = len(validation)
    shared = replace(validation, user=np.arange(pairs) % 7)
    of_few = replace(data, parts={**data.parts, "validation": shared})
    found = WeightCurves(_placed(untrained(of_few), fitter), blending.LINEAR, "ndcg_at_10")
    of_each = WeightCurves(_placed(untrained(data), fitter), blending.LINEAR, "ndcg_at_10")
    assert {len(each) for each in found.values.values()} == {7}
    rows = np.unique(validation.query, return_index=True)[1]
    for weight, values in found.values.items():
        users = (np.arange(pairs) % 7)[rows]
        means = [of_each.values[weight][users == user].mean() for user in range(7)]
        np.testing.assert_allclose(values, means)


def test_a_linear_model_that_lowers_the_selected_metric_is_left_out(
    data: TrainingData, fitter: BaselineFitter
) -> None:
    found = WeightCurves(_placed(untrained(data), fitter), blending.LINEAR, "ndcg_at_10")
    assert found.chosen > 0
    found.shown = {weight: found.shown[0.0] - (weight > 0) for weight in found.shown}
    assert found.chosen == 0.0


def _placed(trainer: Trainer, fitter: BaselineFitter) -> Trainer:
    blending._place_linear(blending._linear_models(fitter)[0], trainer)
    return trainer


def test_untrained_towers_become_the_linear_model(data: TrainingData, fitter: BaselineFitter) -> None:
    trainer = untrained(data)
    found = mix(trainer, fitter)
    assert found is not None
    assert found.alone > found.before + 0.1
    assert found.line().endswith(f"; {len(clusters_of(data, 'validation')):,} users")
    weights, chosen = {
        "SLIST": lambda: (slist.weights(fitter)[0], slist.weights(fitter)[1].decay),
        "EASE": lambda: (ease.recency_weights(fitter)[0], ease.recency_weights(fitter)[1].decay),
    }[found.label]()
    queries, relevant = data.parts["test"].by_query()
    alone = rank_by(data, summed(data, weights, chosen))(queries)
    quality = [mean(per_query(each, relevant))["ndcg_at_10"] for each in (ranked(trainer), alone)]
    assert quality[0] > quality[1] - 0.03
    _with_weight(trainer, fitter, math.inf)
    assert (trainer.rank(queries)[:, :10] == alone[:, :10]).mean() > 0.99


def _with_weight(trainer: Trainer, fitter: BaselineFitter, weight: float) -> Trainer:
    """The same towers with a given weight."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(part_weights, "choose_weight", lambda *_: weight)
        found = mix(trainer, fitter)
    assert found is not None
    assert found.weight == weight
    return trainer


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_scores_are_the_weighted_sum_of_both_in_units_of_their_deviation(
    data: TrainingData, fitter: BaselineFitter, weight: float
) -> None:
    def scores(at: float) -> Any:
        trainer = _with_weight(untrained(data), fitter, at)
        queries = trainer.data.parts["validation"].by_query()[0]
        items = trainer.item_vectors()  # first, because it sets the radius
        return (trainer.query_vectors(queries) @ items.T).double()

    own, linear, mixed = scores(0.0), scores(math.inf), scores(weight)
    trainer = _with_weight(untrained(data), fitter, weight)
    unit = own.std(dim=1).mean() / linear.std(dim=1).mean()
    torch.testing.assert_close(mixed, own + weight * unit * linear, atol=1e-4, rtol=1e-4)
    lengths = [
        each[:, :ITEMS].norm(dim=1).mean() / each[:, ITEMS:-1].norm(dim=1).mean()
        for each in (trainer.query_vectors(), trainer.item_vectors())
    ]
    assert float(lengths[0]) == pytest.approx(float(lengths[1]), rel=0.2)


def test_where_ease_leaves_items_out_item_knn_is_tried_and_the_coordinates_have_the_scores_of_each(
    data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (ease, slist):
        monkeypatch.setattr(module, "LARGEST", 15)
    fitter = BaselineFitter(experiment_with(training=TrainingConfig(selection="ndcg_at_10")), data)
    models = blending._linear_models(fitter)
    assert [(each.label, len(each.weights.rows)) for each in models] == [
        ("EASE", 15),
        ("SLIST", 15),
        ("item-kNN", ITEMS),
    ]
    assert data.histories is not None
    queries, lengths = data.parts["test"].by_query()[0], data.histories.end - data.histories.begin
    # Beyond the longest training history positions have no weight of their own.
    queries = queries[lengths[queries] <= lengths[data.parts["train"].query].max()]
    assert len(queries) > 30
    repeated = replace(models[-1], weights=replace(models[-1].weights, own=0.5))
    for model in (*models, repeated):
        trainer = untrained(data)
        blending._place_linear(model, trainer)
        WeightCurves(trainer, blending.LINEAR, "ndcg_at_10").apply(math.inf, 1.0)
        items = trainer.item_vectors()  # first, because it sets the radius
        found = (trainer.query_vectors(queries) @ items.T).numpy()
        np.testing.assert_allclose(found, model.weights.scores(data, queries, model.decay), atol=1e-3)
    for model in models:
        assert [each.label for each in blending._linear_models(fitter, model.label)] == [model.label]


def test_where_the_towers_tell_no_items_apart_the_linear_model_ranks(
    data: TrainingData, fitter: BaselineFitter
) -> None:
    trainer = untrained(data)
    with torch.no_grad():
        for parameter in trainer.towers[1].parameters():
            if parameter.requires_grad:
                parameter.zero_()
    found = mix(trainer, fitter)
    assert found is not None
    assert 0 < found.weight < math.inf
    assert found.after == pytest.approx(found.alone)


def test_towers_without_room_for_it_stay_as_they_are(data: TrainingData, fitter: BaselineFitter) -> None:
    trainer = untrained(data, linear=0)
    assert mix(trainer, fitter) is None


def test_where_no_linear_model_applies_the_towers_have_no_coordinates_for_it(
    data: TrainingData, fitter: BaselineFitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = untrained(data)
    assert drop_useless_coordinates(trainer.towers, fitter.experiment, data) == ""
    before = ranked(trainer)
    never = [replace(each, applies=lambda *_: False) for each in (ease.RECENCY, slist.BASELINE)]
    monkeypatch.setattr(blending, "_BASELINES", never)
    warning = drop_useless_coordinates(trainer.towers, fitter.experiment, data)
    assert "tower.linear" in warning
    assert "needs histories" in warning
    assert mix(trainer, fitter) is None
    trainer.clear_cached_vectors()
    np.testing.assert_array_equal(ranked(trainer), before)


def test_towers_that_are_better_alone_are_stored_without_coordinates_for_a_linear_model(
    data: TrainingData, fitter: BaselineFitter, tmp_path: Path
) -> None:
    trainer, fresh = untrained(data), untrained(data)
    width = trainer.item_vectors().shape[1]
    _with_weight(trainer, fitter, 0.0)
    assert trainer.item_vectors().shape[1] == width - ITEMS
    save_towers(tmp_path / "towers.pt", trainer.towers)
    load_towers(tmp_path / "towers.pt", fresh.towers)
    fresh.clear_cached_vectors()
    torch.testing.assert_close(fresh.item_vectors(), trainer.item_vectors())
