"""Events of a history weigh by their age, where queries and events have times."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.helpers.people import data_of_people
from tests.train.evaluation.test_history_baselines import fitter, timed
from twinspire.train.config.training import TrainingConfig
from twinspire.train.data.recency import DAY
from twinspire.train.evaluation import ranking
from twinspire.train.evaluation.baselines import ease, itemknn, slist
from twinspire.train.evaluation.ranking import Baseline
from twinspire.train.metrics import per_query
from twinspire.train.models.collaborative import history_matrix


def test_a_history_weighs_an_item_less_by_the_age_of_its_event() -> None:
    """Ages are counted from the moment of the query; events after it are new."""
    data = data_of_people([[0, 1, 2, 3, 4]], 5, exclude_seen=False)
    assert data.histories is not None
    times = np.array([0.0, 600.0, 840.0, 1100.0, 1200.0])
    moments = np.array([0.0, 0.0, 0.0, 0.0, 900.0])
    aged = replace(data, moments=moments, histories=replace(data.histories, times=times))
    found = history_matrix(aged, np.array([4]), 0.5, ages=2.0).toarray()[0]
    np.testing.assert_allclose(found, [0.5**3 / 16**2, 0.5**2 / 6**2, 0.5 / 2**2, 1, 0], rtol=1e-6)
    unknown = replace(aged, moments=np.full(5, np.inf))  # of a judged query
    assert history_matrix(unknown, np.array([4]), ages=2.0).toarray()[0].tolist() == [1, 1, 1, 1, 0]


@pytest.mark.parametrize(
    ("baseline", "weights"),
    [
        (slist.BASELINE, slist.weights),
        (itemknn.BASELINE, itemknn.weights),
        (ease.RECENCY, ease.recency_weights),
    ],
    ids=["slist", "itemknn", "ease"],
)
def test_validation_chooses_a_decay_by_age_where_the_towers_may_read_ages(
    baseline: Baseline, weights: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The items of today count, one as six of them, some by chance; those of a month ago do not."""
    draw, groups, size = np.random.default_rng(0), 5, 12
    people, times = [], []
    for _ in range(200):
        before, today = draw.choice(groups, 2, replace=False)
        count = int(draw.integers(1, 7))
        old = before * size + draw.permutation(size)[:8]
        new = today * size + draw.permutation(size)[: count + 2]
        noise = draw.choice(np.setdiff1d(np.arange(groups * size), [*old, *new]), count, replace=False)
        new[:count] = np.where(draw.random(count) < 0.4, noise, new[:count])
        people.append([*old.tolist(), *new.tolist()])
        times += [*range(8), *(30 * DAY + n for n in range(count + 2))]
    bare = timed(data_of_people(people, groups * size), times)
    assert bare.histories is not None
    aged = replace(bare, histories=replace(bare.histories, times=np.array(times, np.float64)))
    training = TrainingConfig(selection="ndcg_at_10")
    monkeypatch.setattr(ranking, "FEW_USERS", 0)  # what is best on validation is taken
    without, shared = fitter(bare, training=training), fitter(aged, training=training)
    by_step, by_age = baseline.fit(without), baseline.fit(shared)
    assert "ages" not in by_step.settings
    assert by_age.settings["ages"] > 0
    assert weights(shared)[1] == weights(without)[1]  # towers mix it in by steps alone
    queries, relevant = aged.parts["validation"].by_query()
    quality = [per_query(each(queries), relevant)["ndcg_at_10"].mean() for each in (by_step, by_age)]
    assert quality[1] > quality[0] + 0.03
