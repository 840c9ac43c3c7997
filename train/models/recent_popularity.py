"""Recent popularity as coordinates: how much more popular than usual an item was before a query's time.

The time of the training events is cut into periods of equal length. At the begin of a period t, the share of
an item i in the events before it, with weights that halve every few days, is compared with its share in all
training events:

    x(t, i) = log((1 - PRIOR) share(t, i) / usual(i) + PRIOR)

A factorisation of this matrix (periods, items) gives a vector of each period and one of each item, whose
inner product is part of the score: a bias of the item that changes with time (Koren 2009, section 4, learns
such biases for bins of time). The query tower looks up the period of its query's time, and learns one weight
for all. A query after the last training event, or without a time, takes the shares of the end. So the index
and the service need nothing else, and a query of the past is answered by what was popular before it.

The half-life is the one whose shares predict the training events best, each from those before its period.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from protos.features import FIRST_KNOWN, ITEM_VOCABULARY, Schema
from train.data.recency import DAY
from train.data.training_data import Times, TrainingData
from train.models.sequence_encoders import IdEncoder
from train.models.towers import Tower

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

PERIODS = 256
HALF_LIVES = (0.5, 1.0, 2.0, 4.0, 7.0, 14.0, 30.0, 60.0, 120.0)  # days
PRIOR = 0.05  # weight of an item's share in all events
START = 0.5  # of the learned weight


class PeriodEncoder(nn.Module):
    """The coordinates of the period in which a query is asked, times a learned weight.

    Args:
        width: K, number of coordinates.
    """

    begins: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("begins", torch.zeros(PERIODS, dtype=torch.int64))
        self.table = nn.Parameter(torch.zeros(PERIODS + 1, width), requires_grad=False)
        self.weight = nn.Parameter(torch.full((), START))

    def forward(self, seconds: Tensor) -> Tensor:
        """Seconds since 1970, int64 (B, 1) -> (B, K)."""
        period = (seconds >= self.begins).sum(dim=-1)  # 0 before the first training event
        return nn.functional.embedding(period, self.table) * self.weight


def initialize_recent_popularity(towers: tuple[Tower, Tower], data: TrainingData, schema: Schema) -> float:
    """Set the coordinates of recent popularity of both towers from the training events.

    Args:
        towers: the query tower has a `PeriodEncoder` among its factors; the factors of the item tower end
            with as many coordinates.
        data: with times.
        schema: of the towers.

    Returns:
        The half-life in days.
    """
    encoder = next(each for each in towers[0].factors.values() if isinstance(each, PeriodEncoder))
    ids = next(each for each in towers[1].factors.values() if isinstance(each, IdEncoder))
    train = data.parts["train"].positive()
    assert train.time is not None
    row_of = {each: row for row, each in enumerate(data.item_ids)}
    known = np.array([row_of[each] for each in schema.vocabularies[ITEM_VOCABULARY]], np.int64)
    begins = begins_of_periods(train.time)
    counts = counts_of_periods(begins, train.time, train.item, data.item_count)[:, known]
    days = best_half_life(counts, begins)
    periods, items = factors_of(changes(counts, begins, days), encoder.table.shape[1])
    width = periods.shape[1]
    with torch.no_grad():
        encoder.begins.copy_(torch.from_numpy(begins))
        encoder.table[:, :width] = torch.from_numpy(periods)
        place = ids.table.shape[1] - encoder.table.shape[1]
        ids.table[FIRST_KNOWN:, place : place + width] = torch.from_numpy(items)
    return days


def begins_of_periods(times: Times) -> Rows:
    """int64 (PERIODS,): the first second of each period; the last one begins after the last event.

    Args:
        times: (E,), of the events, in seconds since 1970.
    """
    if not len(times):
        return np.zeros(PERIODS, np.int64)
    return np.linspace(np.floor(times.min()), np.floor(times.max()) + 1, PERIODS).astype(np.int64)


def counts_of_periods(begins: Rows, times: Times, items: Rows, item_count: int) -> Floats:
    """(PERIODS + 1, N): events of each item in each period; row 0 is the time before the first one.

    Args:
        begins: (PERIODS,), of the periods.
        times: (E,), of the events.
        items: (E,), of the events, below `item_count`.
        item_count: N.
    """
    period = np.searchsorted(begins, times, side="right")
    counts = np.zeros((PERIODS + 1, item_count))
    np.add.at(counts, (period, items), 1)
    return counts


def changes(counts: Floats, begins: Rows, days: float) -> Floats:
    """(PERIODS + 1, N): x(t, i) of the module, less its mean over the items; 0 where no event was before.

    Args:
        counts: as `counts_of_periods` returns them.
        begins: of the periods.
        days: the half-life.
    """
    found = np.log(_ratios(counts, begins, days))
    return np.asarray(found - found.mean(axis=1, keepdims=True))


def best_half_life(counts: Floats, begins: Rows) -> float:
    """The half-life in days whose shares give the events of each period the highest likelihood.

    Args:
        counts: as `counts_of_periods` returns them.
        begins: of the periods.
    """
    usual = _shares(counts.sum(axis=0))

    def likelihood(days: float) -> float:
        predicted = _ratios(counts, begins, days) * usual
        predicted /= predicted.sum(axis=1, keepdims=True)
        return float((counts * np.log(np.maximum(predicted, 1e-12))).sum())

    return max(HALF_LIVES, key=likelihood)


def _ratios(counts: Floats, begins: Rows, days: float) -> Floats:
    """(PERIODS + 1, N): (1 - PRIOR) share(t, i) / usual(i) + PRIOR; 1 where no event was before."""
    usual = _shares(counts.sum(axis=0))
    kept = 0.5 ** (float(begins[-1] - begins[0]) / (PERIODS - 1) / DAY / days)
    ratios = np.ones_like(counts)
    before = np.zeros(counts.shape[1])
    for period, of_period in enumerate(counts):
        if before.any():
            ratios[period] = (1 - PRIOR) * _shares(before) / np.maximum(usual, 1e-12) + PRIOR
        before = before * kept + of_period
    return ratios


def _shares(counts: Floats) -> Floats:
    return np.asarray(counts / max(1e-12, counts.sum()))


def factors_of(matrix: Floats, width: int) -> tuple[Floats, Floats]:
    """Factors (PERIODS + 1, K) and (N, K) of the largest singular values, K up to `width`."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    root = np.sqrt(values[:width])
    return left[:, :width] * root, right[:width].T * root
