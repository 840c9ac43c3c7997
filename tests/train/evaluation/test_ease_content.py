"""The baseline that reads ids, contents and times of items: its contents."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.sparse

from tests.helpers.people import data_of_people
from tests.train.evaluation.test_history_baselines import timed
from twinspire.protos.toml_config import to_table
from twinspire.train.config import Experiment, read_experiment
from twinspire.train.data.recency import DAY
from twinspire.train.data.training_data import TrainingData
from twinspire.train.evaluation.baselines import ease_recent
from twinspire.train.evaluation.baselines.ease_recent import Cosines
from twinspire.train.evaluation.ranking import Baseline, BaselineFitter
from twinspire.train.metrics import mean, per_query
from twinspire.train.paths import ROOT

KINDS, OF_A_KIND, EVENTS = 6, 40, 4


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return read_experiment(ROOT / "train/configs/history.toml")


@pytest.fixture(scope="module")
def data() -> TrainingData:
    return people_of_kinds(OF_A_KIND)


def people_of_kinds(of_a_kind: int) -> TrainingData:
    """People who take items of one kind, one a day; most items are taken once or twice."""
    draw = np.random.default_rng(0)
    people, times, items = [], [], KINDS * of_a_kind
    for person in range(120):
        taken = person % KINDS * of_a_kind + draw.choice(of_a_kind, EVENTS, replace=False)
        people.append(taken.tolist())
        times += [(person + n) * DAY for n in range(EVENTS)]
    found = timed(data_of_people(people, items), times)
    genres = [[f"kind {n // of_a_kind}", "film"] for n in range(items)]
    values: dict[str, list[Any]] = {"genres": genres, "title": ["film"] * items, "year": [None] * items}
    return replace(found, items={**found.items, **values})


def quality(baseline: Baseline, fitter: BaselineFitter) -> float:
    queries, relevant = fitter.data.parts["test"].by_query()
    return mean(per_query(baseline.fit(fitter)(queries), relevant))["recall_at_20"]


def test_contents_find_items_that_few_have_taken(experiment: Experiment, data: TrainingData) -> None:
    fitter = BaselineFitter(experiment, data)
    alone = replace(experiment, item={"id": experiment.item["id"]})
    without = quality(ease_recent.BASELINE, BaselineFitter(alone, data))
    assert quality(ease_recent.BASELINE, fitter) > without + 0.1
    settings = ease_recent.BASELINE.fit(fitter).settings
    assert settings["content"] > 0
    assert {*settings} == {"lambda", "content", "decay", "days", "power", "own"}
    stored = json.loads(json.dumps(to_table(fitter.choices)))
    assert ease_recent.BASELINE.fit(BaselineFitter(experiment, data, stored=stored)).settings == settings


def test_cosines_read_words_and_categories(experiment: Experiment, data: TrainingData) -> None:
    titles = ["The red house", "red House", "a house", ""] + ["film"] * (data.item_count - 4)
    values: dict[str, Any] = {
        **data.items,
        "title": titles,
        "genres": [[], [], ["house"], None, *data.items["genres"][4:]],
    }
    cosines = Cosines(ease_recent.content_vectors(experiment, replace(data, items=values)))
    found = cosines.summed(scipy.sparse.eye(data.item_count, dtype=np.float32, format="csr"))
    assert found.shape == (data.item_count, data.item_count)
    np.testing.assert_allclose(found, found.T, atol=1e-6)
    assert found[0, 1] > found[0, 2] > 0  # a category is no word
    assert not found[3].any()
    np.testing.assert_allclose(found.diagonal(), 0, atol=1e-6)
    assert cosines.deviation() == pytest.approx(found.std(), rel=1e-4)
    history = np.random.default_rng(0).random((3, data.item_count)).astype(np.float32)
    summed = cosines.summed(scipy.sparse.csr_matrix(history))
    np.testing.assert_allclose(summed, history @ found, rtol=1e-4, atol=1e-5)


def test_items_without_words_and_categories_have_no_contents(
    experiment: Experiment, data: TrainingData
) -> None:
    empty: dict[str, Any] = {"genres": [[None]] * data.item_count, "title": ["!"] * data.item_count}
    without = replace(data, items={**data.items, **empty})
    settings = ease_recent.BASELINE.fit(BaselineFitter(experiment, without)).settings
    assert settings["content"] == 0
