"""Recent popularity: the shares before each period, their factors, and the period of a query."""

import numpy as np
import pytest
import torch

from twinspire.protos.inputs.events import LATEST
from twinspire.train.data.recency import DAY
from twinspire.train.models.recent_popularity import (
    FORMS,
    PERIODS,
    PRIOR,
    EventsByPeriod,
    Form,
    PeriodEncoder,
)

ITEMS = 7


@pytest.fixture(scope="module")
def events() -> EventsByPeriod:
    random = np.random.default_rng(0)
    times = np.sort(random.uniform(1e9, 1e9 + 100 * DAY, 900))
    drift = (np.arange(900) // 150 + random.integers(0, 2, 900)) % ITEMS  # what is popular changes
    return EventsByPeriod(times, drift, ITEMS)


def test_each_event_is_in_the_period_that_its_time_is_in() -> None:
    times = np.array([100.0, 100.5, 355.0])
    events = EventsByPeriod(times, np.array([0, 1, 2]), 3)
    assert len(events.begins) == PERIODS
    assert (events.begins[0], events.begins[-1]) == (100, 356)  # the last one begins after all events
    assert events.counts[0].sum() == events.counts[-1].sum() == 0
    assert np.flatnonzero(events.counts[:, 0]).tolist() == [1]
    for time, item in zip(times, range(3), strict=True):
        (row,) = np.flatnonzero(events.counts[:, item])
        assert events.begins[row - 1] <= time < events.begins[row]


@pytest.mark.parametrize("half_life", [2.0, 30.0])
@pytest.mark.parametrize("form", FORMS)
def test_a_period_knows_the_events_before_it_by_their_age(
    events: EventsByPeriod, half_life: float, form: Form
) -> None:
    found = events.matrix(form, half_life)
    usual = events.counts.sum(axis=0) / events.counts.sum()
    days = (events.begins[-1] - events.begins[0]) / DAY / (PERIODS - 1)
    for period in (2, 100, PERIODS):
        ages = days * np.arange(period - 1, -1, -1)  # of the periods before, from the first row on
        weighted = 0.5 ** (ages / half_life) @ events.counts[:period]
        expected = np.log((1 - PRIOR) * weighted / weighted.sum() + PRIOR * usual)
        if form == "change":
            expected -= np.log(usual)
        np.testing.assert_allclose(found[period], expected - expected.mean(), atol=1e-9)
    share = np.log(usual) - np.log(usual).mean() if form == "share" else np.zeros(ITEMS)
    np.testing.assert_allclose(found[:2], [share, share], atol=1e-9)  # nothing was before


def test_an_item_without_training_events_has_a_small_share() -> None:
    events = EventsByPeriod(np.linspace(1e9, 1e9 + DAY, 50), np.arange(50) % 2, 3)
    assert np.isfinite(events.matrix("share", 7.0)).all()
    assert (events.matrix("share", 7.0)[:, 2] < -2).all()


@pytest.mark.parametrize("form", FORMS)
def test_the_factors_give_the_matrix(events: EventsByPeriod, form: Form) -> None:
    matrix = events.matrix(form, 7.0)
    periods, items = events.factors(form, 7.0, ITEMS + 3)
    assert (periods.shape, items.shape) == ((PERIODS + 1, ITEMS + 3), (ITEMS, ITEMS + 3))
    np.testing.assert_allclose(periods @ items.T, matrix, atol=1e-9)
    periods, items = events.factors(form, 7.0, 2)
    lost = np.abs(periods @ items.T - matrix).mean()
    assert 1e-3 < lost < np.abs(matrix).mean() / 2


def test_after_a_long_gap_what_was_popular_last_is_still_known() -> None:
    """The weights of the events have nearly vanished, and their proportions have not."""
    times = np.array([1e9, 1e9 + 1, 1e9 + 2, 1e9 + 500 * DAY])
    events = EventsByPeriod(times, np.array([0, 0, 1, 2]), 3)
    found = events.matrix("change", 1.0)[PERIODS - 2]
    assert found[0] == pytest.approx(found[1], abs=1e-6)  # each as often as on the whole
    assert found[0] > found[2] + 1


@pytest.mark.parametrize("form", FORMS)
def test_without_events_nothing_is_popular(form: Form) -> None:
    none = EventsByPeriod(np.empty(0), np.empty(0, np.int64), 3)
    periods, items = none.factors(form, 7.0, 2)
    assert not periods.any()
    assert not (periods @ items.T).any()


def test_events_of_one_second_are_before_what_is_asked_later() -> None:
    events = EventsByPeriod(np.full(5, 1e9), np.array([0, 0, 0, 1, 2]), 3)
    assert not events.matrix("change", 7.0)[:2].any()
    assert events.matrix("change", 7.0)[-1].any() is np.False_  # all events are recent: nothing has changed


def test_a_query_takes_the_period_of_its_time() -> None:
    encoder = PeriodEncoder(2)
    with torch.no_grad():
        encoder.begins.copy_(torch.arange(PERIODS) * 10 + 1000)
        encoder.table.copy_(torch.arange(PERIODS + 1)[:, None].expand(-1, 2))
    asked = torch.tensor([[-5], [999], [1000], [1009], [1010], [1000 + 10 * PERIODS], [LATEST]])
    assert encoder(asked)[:, 0].tolist() == [0, 0, 1, 1, 2, PERIODS, PERIODS]
