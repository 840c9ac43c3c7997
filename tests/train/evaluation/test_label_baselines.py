"""The baselines of labels: which of them are fitted, and what is chosen for them."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import scipy.special

from twinspire.train.config import Experiment, read_experiment
from twinspire.train.config.baselines import BaselinesConfig
from twinspire.train.data.training_data import Pairs, TrainingData
from twinspire.train.evaluation.label_baselines import SMOOTHINGS, item_means, item_shares, label_baselines
from twinspire.train.paths import CONFIGS

ITEMS = 30


def experiment(*run: str, config: str = "movielens-clicks") -> Experiment:
    return replace(read_experiment(CONFIGS / f"{config}.toml"), baselines=BaselinesConfig(run=run))


def data_of(shares: npt.NDArray[np.float64], each: int) -> TrainingData:
    """Pairs without users and histories; each item has `each` of them in training.

    Args:
        shares: (N,), of positives among the pairs of an item.
    """
    random = np.random.default_rng(0)

    def part(count: int) -> Pairs:
        item = np.repeat(np.arange(ITEMS), count)
        label = (random.random(len(item)) < shares[item]).astype(np.float32)
        return Pairs(np.zeros(len(item), np.int64), item, np.ones(len(item), np.float32), label)

    values = read_experiment(CONFIGS / "movielens-clicks.toml")
    queries = {name: [None] for name in values.query}
    items = {name: [None] * ITEMS for name in values.item}
    parts = {"train": part(each), "validation": part(40), "test": part(40)}
    return TrainingData(queries, items, parts, 1, ITEMS)


@pytest.mark.parametrize(
    ("shares", "each", "smoothing"),
    [(np.full(ITEMS, 0.4), 5, SMOOTHINGS[-1]), (np.arange(ITEMS) % 2 * 0.98 + 0.01, 20, SMOOTHINGS[0])],
    ids=["all items alike", "items far apart"],
)
def test_item_means_within_user_and_item_means_are_smoothed_as_they_are_alone(
    shares: npt.NDArray[np.float64], each: int, smoothing: float
) -> None:
    data = data_of(shares, each)
    alone = item_means(data)
    both = label_baselines(experiment("user_item"), data)["user_item"]
    assert alone.settings["smoothing"] == both.settings["item_smoothing"] == smoothing
    pairs = data.parts["test"]  # nothing is known of their users
    np.testing.assert_allclose(both.predict(pairs), alone.predict(pairs), rtol=1e-9)


def test_without_histories_the_events_of_a_user_are_the_training_pairs() -> None:
    data, draw = data_of(np.full(ITEMS, 0.4), 5), np.random.default_rng(1)
    parts = {name: replace(each, user=draw.integers(0, 7, len(each))) for name, each in data.parts.items()}
    found = label_baselines(experiment("user_item"), replace(data, parts=parts))["user_item"]
    shares = item_shares(data, found.settings["item_smoothing"])
    train, test = parts["train"], parts["test"]
    residuals = train.is_positive - shares[train.item]
    of_users = [residuals[train.user == user] for user in range(7)]
    means = np.array([each.sum() / (len(each) + found.settings["smoothing"]) for each in of_users])
    odds = scipy.special.logit(shares[test.item]) + found.settings["factor"] * means[test.user]
    np.testing.assert_allclose(found.predict(test), scipy.special.expit(odds), rtol=1e-9)
