"""Recent popularity as coordinates: how popular an item was before a query's time.

The time of the training events is cut into periods of equal length. At the begin of a period t, the share of
an item i in the events before it, with weights that halve every few days, is mixed with its share in all
training events. The matrix has one of two forms, the change of popularity or the popularity itself:

    change(t, i) = log((1 - PRIOR) share(t, i) / usual(i) + PRIOR)
    share(t, i)  = log((1 - PRIOR) share(t, i) + PRIOR usual(i)) = change(t, i) + log usual(i)

The change suits towers that have learned how popular items are on the whole. The share suits a log where
popularity changes so fast that what they have learned of it is of little use. A factorisation of this matrix
(periods, items) gives a vector of each period and one of each item, whose inner product is part of the score:
a bias of the item that changes with time (Koren 2009, section 4, learns such biases for bins of time). The
query tower looks up the period of its query's time. A query after the last training event, or without a time,
takes the shares of the end, so the index and the service need nothing else. A query of the past takes the
shares before its period; later events are in `usual`, and in the directions that all periods share.
"""

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from twinspire.train.data.recency import DAY
from twinspire.train.data.training_data import Rows, Times

Floats = npt.NDArray[np.float64]
Form = Literal["change", "share"]
FORMS: tuple[Form, ...] = get_args(Form)  # in the order of preference

RANK_TOLERANCE = 1e-7  # of the largest singular value; those below are rounding errors
PERIODS = 256  # that begin at or after the first training event; the last one is after all of them
PRIOR = 0.05  # weight of an item's share in all events


class PeriodEncoder(nn.Module):
    """The coordinates of the period in which a query is asked.

    Args:
        width: K, number of coordinates.
    """

    begins: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("begins", torch.zeros(PERIODS, dtype=torch.int64))
        self.table = nn.Parameter(torch.zeros(PERIODS + 1, width))

    def forward(self, seconds: Tensor) -> Tensor:
        """Seconds since 1970, int64 (B, 1) -> (B, K)."""
        period = (seconds >= self.begins).sum(dim=-1)  # 0 before the first training event
        return nn.functional.embedding(period, self.table)


class EventsByPeriod:
    """The training events of each item in each period.

    Args:
        times: (E,), of the events, in seconds since 1970.
        items: int64 (E,), of the events, below `item_count`.
        item_count: N.

    Attributes:
        begins: int64 (PERIODS,), the first second of each period; the last one begins after the last event.
        counts: (PERIODS + 1, N), events; row 0 is the time before the first period.
    """

    def __init__(self, times: Times, items: Rows, item_count: int) -> None:
        first, last = (np.floor(times.min()), np.floor(times.max()) + 1) if len(times) else (0.0, 0.0)
        self.begins = np.linspace(first, last, PERIODS).astype(np.int64)
        self.counts = np.zeros((PERIODS + 1, item_count))
        np.add.at(self.counts, (np.searchsorted(self.begins, times, side="right"), items), 1)

    def matrix(self, form: Form, half_life: float) -> Floats:
        """(PERIODS + 1, N): one form of the module, less its mean over the items.

        Without earlier events the share is the usual one.

        Args:
            half_life: days in which the weight of an event halves.
        """
        usual = _shares(np.maximum(self.counts.sum(axis=0), 0.5))  # there is no logarithm of zero events
        days = float(self.begins[-1] - self.begins[0]) / (PERIODS - 1) / DAY  # of a period
        kept = 0.5 ** (days / half_life)
        found, before = np.zeros_like(self.counts), np.zeros(len(usual))
        for period, events in enumerate(self.counts):
            if before.sum() > 0:
                found[period] = np.log((1 - PRIOR) * _shares(before) / usual + PRIOR)
            before = before * kept + events
        if form == "share":
            found += np.log(usual)
        found -= found.mean(axis=1, keepdims=True)
        return found

    def factors(self, form: Form, half_life: float, width: int) -> tuple[Floats, Floats]:
        """Vectors of the periods (PERIODS + 1, width) and of the items (N, width) with these inner products.

        They are the best ones of this width (Eckart and Young 1936); columns beyond the rank are zero.

        Args:
            half_life: days in which the weight of an event halves.
            width: K.
        """
        matrix = self.matrix(form, half_life)
        # The eigenvectors of M M^T are the left singular vectors of M. An SVD of M takes longer, and it has
        # been seen not to converge, although all values were finite.
        squares, left = np.linalg.eigh(matrix @ matrix.T)
        values = np.sqrt(np.maximum(squares[::-1], 0.0))
        kept = min(width, int((values > RANK_TOLERANCE * values[0]).sum()))
        left, root = left[:, ::-1][:, :kept], np.sqrt(values[:kept])
        factors = [np.zeros((rows, width)) for rows in self.counts.shape]
        factors[0][:, :kept], factors[1][:, :kept] = left * root, matrix.T @ left / root
        return factors[0], factors[1]


def _shares(counts: Floats) -> Floats:
    return np.asarray(counts / counts.sum())
