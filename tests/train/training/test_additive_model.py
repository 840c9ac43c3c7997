"""An additive model beside trained click towers: what is mixed in, and how its weight is chosen."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LogisticRegression

from tests.helpers.click_logs import CLICKS_TOML, write_clicks
from tests.helpers.stdlib import completed, experiment_at
from twinspire.protos.features import IdFeature
from twinspire.train.config import Experiment
from twinspire.train.config.towers import ClicksTower
from twinspire.train.data.training_data import Pairs, TrainingData
from twinspire.train.evaluation.intervals import Clusters
from twinspire.train.evaluation.label_means import UserItemMeans, user_item_means
from twinspire.train.models.heads import LogisticHead
from twinspire.train.training.additive_model import (
    DEFAULT_WEIGHT,
    WEIGHTS,
    Additive,
    add_additive_model,
    choose_weight,
)
from twinspire.train.training.checkpoint import load_towers, save_towers
from twinspire.train.training.trained_model import build_model
from twinspire.train.training.trainer import Trainer


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, TrainingData]:
    """A log whose towers read the five newest events of up to fifty."""
    folder = tmp_path_factory.mktemp("clicks")
    write_clicks(folder, users=60, items=40, events=2500)
    toml = CLICKS_TOML.replace('kind = "history"', 'kind = "history"\nmax_length = 5')
    toml = toml.replace('kind = "negative_history"', 'kind = "negative_history"\nmax_length = 5')
    (folder / "clicks.toml").write_text(toml)
    experiment, dataset = experiment_at(folder / "clicks.toml")
    return completed(experiment, dataset)


def untrained(experiment: Experiment, data: TrainingData) -> Trainer:
    """Towers with random weights, also in their heads."""
    model, prepared = build_model(experiment, data)
    head = model.towers[0].head
    assert isinstance(head, LogisticHead)
    with torch.no_grad():
        head.weight.uniform_(0.5, 2.0)
        head.bias.fill_(0.3)
        for tower in model.towers:
            for name, each in tower.named_parameters():
                if "table" in name:
                    each.normal_(0, 0.3)
    return Trainer(model.towers, data, prepared, experiment.loss, experiment.training)


def logits(trainer: Trainer, part: str = "test") -> npt.NDArray[np.float64]:
    products = trainer.inner_products(trainer.data.parts[part]).astype(np.float64)
    return np.asarray(products + trainer.towers[0].head.score().bias)


def by_hand(experiment: Experiment, data: TrainingData, means: UserItemMeans, pairs: Pairs) -> list[float]:
    """The formula, event by event, over what the towers read."""
    found = []
    for query, item in zip(pairs.query, pairs.item, strict=True):
        liked, skipped = (data.queries[name][query] for name in ("history", "skipped"))
        shares = dict(zip(data.item_ids, means.shares, strict=True))
        residuals = [1 - shares[each] for each in liked] + [-shares[each] for each in skipped]
        share = means.shares[item]
        user = means.factor * sum(residuals) / (len(residuals) + means.smoothing)
        found.append(float(np.log(share / (1 - share)) + user))
    return found


def test_the_means_are_those_of_the_events_that_the_towers_read(
    made: tuple[Experiment, TrainingData],
) -> None:
    experiment, data = made
    pairs = data.parts["test"]
    means = user_item_means(experiment.query, data, as_read=True)
    np.testing.assert_allclose(means.logits(pairs), by_hand(experiment, data, means, pairs), atol=1e-9)
    assert means.user_residuals(pairs)[1].max() == 5
    everything = user_item_means(experiment.query, data, as_read=False)
    assert everything.user_residuals(pairs)[1].max() > 5


def without(experiment: Experiment, *names: str) -> Experiment:
    """Without some features of the query, and of the item all but its id."""
    query = {name: spec for name, spec in experiment.query.items() if name not in names}
    return replace(experiment, query=query, item={"id": experiment.item["id"]})


def test_the_logits_are_a_weighted_mean_of_both(made: tuple[Experiment, TrainingData]) -> None:
    experiment, data = made
    experiment = without(experiment, "user", "device")
    trainer = untrained(experiment, data)
    own, on_validation = logits(trainer), logits(trainer, "validation")
    found = add_additive_model(trainer, experiment)
    assert found is not None
    assert (found.kind, found.weight > 0.3) == ("means", True)  # random towers say nothing
    assert found.after < found.before
    means = user_item_means(experiment.query, data, as_read=True)
    expected = (1 - found.weight) * own + found.weight * means.logits(data.parts["test"])
    np.testing.assert_allclose(logits(trainer), expected, atol=1e-4)
    assert found.before == pytest.approx(loss_on_validation(data, on_validation), abs=1e-5)
    assert found.after == pytest.approx(loss_on_validation(data, logits(trainer, "validation")), abs=1e-5)


def test_the_weight_is_chosen_by_what_is_served_where_items_are_unknown(
    made: tuple[Experiment, TrainingData],
) -> None:
    """Unknown items are in no history that a tower reads."""
    experiment, data = made
    experiment = without(experiment, "user", "device")
    counts = np.bincount(data.parts["train"].item)
    common = IdFeature("id", min_count=int(np.median(counts)))
    experiment = replace(experiment, item={"id": common})
    trainer = untrained(experiment, data)
    part: Any = trainer.towers[1].additive
    assert len(part.value_tables["id"]) < 2 + len(counts)
    found = add_additive_model(trainer, experiment)
    assert found is not None
    assert (found.kind, found.weight > 0) == ("means", True)
    assert found.after == pytest.approx(loss_on_validation(data, logits(trainer, "validation")), abs=1e-5)


def loss_on_validation(data: TrainingData, found: npt.NDArray[np.float64]) -> float:
    labels = data.parts["validation"].is_positive
    return float(np.log1p(np.exp(np.where(labels, -1, 1) * found)).mean())


def test_without_histories_it_is_a_logistic_regression(made: tuple[Experiment, TrainingData]) -> None:
    """That of scikit-learn over indicators of user, device, item and shop."""
    experiment, data = made
    query = {name: spec for name, spec in experiment.query.items() if name in ("user", "device")}
    experiment = replace(experiment, query=query)
    trainer = untrained(experiment, data)
    own = logits(trainer)
    found = add_additive_model(trainer, experiment)
    assert found is not None
    assert (found.kind, found.weight > 0.3) == ("logistic", True)
    assert found.after == pytest.approx(loss_on_validation(data, logits(trainer, "validation")), abs=1e-5)

    def indicators(pairs: Pairs) -> list[dict[str, float]]:
        return [
            {
                **{f"{name}={data.queries[name][q]}": 1.0 for name in query},
                **{f"{name}={data.items[name][i]}": 1.0 for name in ("id", "shop")},
            }
            for q, i in zip(pairs.query, pairs.item, strict=True)
        ]

    vectorizer, train = DictVectorizer(), data.parts["train"]
    given = vectorizer.fit_transform(indicators(train))
    fitted = LogisticRegression(C=found.settings["C"], max_iter=300).fit(given, train.is_positive)
    expected = fitted.decision_function(vectorizer.transform(indicators(data.parts["test"])))
    expected = (1 - found.weight) * own + found.weight * expected
    np.testing.assert_allclose(logits(trainer), expected, atol=0.05)  # the solver stops before the end


def test_stored_towers_hold_the_model(made: tuple[Experiment, TrainingData], tmp_path: Path) -> None:
    experiment, data = made
    trainer, again = untrained(experiment, data), untrained(experiment, data)
    found = add_additive_model(trainer, experiment)
    assert found and found.weight > 0
    save_towers(tmp_path / "towers.pt", trainer.towers)
    load_towers(tmp_path / "towers.pt", again.towers)
    again.clear_cached_vectors()
    np.testing.assert_allclose(logits(again), logits(trainer), atol=1e-6)


def test_labels_that_are_too_few_add_nothing(made: tuple[Experiment, TrainingData], tmp_path: Path) -> None:
    experiment, data = made
    validation = data.parts["validation"]
    assert validation.label is not None
    alike = replace(validation, label=np.ones_like(validation.label))
    trainer = untrained(experiment, replace(data, parts={**data.parts, "validation": alike}))
    own = logits(trainer)
    assert add_additive_model(trainer, experiment) is None
    assert [tower.additive for tower in trainer.towers] == [None, None]
    np.testing.assert_array_equal(logits(trainer), own)
    save_towers(tmp_path / "towers.pt", trainer.towers)
    other = untrained(experiment, data)
    load_towers(tmp_path / "towers.pt", other.towers)
    other.clear_cached_vectors()
    np.testing.assert_allclose(logits(other), own, atol=1e-6)


def test_without_the_key_or_the_features_there_is_no_place_for_it(
    made: tuple[Experiment, TrainingData],
) -> None:
    experiment, data = made
    tower = experiment.tower
    assert isinstance(tower, ClicksTower)
    plain = replace(experiment, tower=replace(tower, additive=False))  # type: ignore[arg-type]
    trainer = untrained(plain, data)
    assert [tower.additive for tower in trainer.towers] == [None, None]
    assert add_additive_model(trainer, plain) is None
    query = {"history": experiment.query["history"]}  # of one kind
    numbers = replace(experiment, query=query, item={"price": experiment.item["price"]})
    assert add_additive_model(untrained(numbers, data), numbers) is None


def test_of_weights_that_are_as_good_the_one_nearest_to_the_default_is_taken() -> None:
    random = np.random.default_rng(0)
    users = Clusters(np.repeat(np.arange(200), 5), "users")
    noise = random.normal(0, 0.1, 1000)
    noise -= noise.mean()

    def curve(top: float, steepness: float) -> dict[float, npt.NDArray[np.float64]]:
        return {each: 0.6 + noise * (1 + each) + steepness * (each - top) ** 2 for each in WEIGHTS}

    assert choose_weight(curve(0.2, 10.0), users) == pytest.approx(0.2)
    assert choose_weight(curve(0.4, 0.0001), users) == DEFAULT_WEIGHT
    assert choose_weight(curve(0.0, 10.0), Clusters.single(1000)) == 0.0
    # The default weight is within a standard error of the best, but its loss is higher than that of weight 0.
    assert choose_weight(curve(0.0, 0.0001), users) == 0.0
    for few in (1, 9):  # users, who say too little
        some = Clusters.by(users.of % few, 1000, "users")
        assert choose_weight(curve(0.2, 10.0), some) == 0.0  # at the default the loss is higher than at 0
        assert choose_weight(curve(0.4, 10.0), some) == DEFAULT_WEIGHT


def test_a_run_says_what_was_chosen() -> None:
    found = Additive("means", 0.65, {"smoothing": 5.0}, before=0.57, after=0.56)
    assert found.line() == (
        "user and item means of labels beside the towers: 0.65 of the logits; log loss on validation 0.5600, "
        "without it 0.5700"
    )
    assert "beside the towers: left out; log loss" in replace(found, weight=0.0).line()
    assert found.parameters() == {"kind": "means", "weight": 0.65, "smoothing": 5.0}
    assert found.metrics() == {"additive_log_loss": 0.56}
