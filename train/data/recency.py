"""Recent popularity: each item's share of the training events in the days before a query.

Only training events count, and of these only earlier ones than the query. The days end at the query's moment,
or at the last training event where that is earlier, as with a split by time.
"""

import numpy as np
import numpy.typing as npt

from twinspire.train.data.training_data import TrainingData

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

WHOLE = 0.0  # in place of a number of days: all that went before
WINDOWS = (1.0, 2.0, 4.0, 7.0, 14.0, 30.0, 60.0, 120.0, WHOLE)  # days
DAY = 86_400.0  # seconds


class RecentShares:
    """The items' shares of the training events before a moment, of data with times."""

    def __init__(self, data: TrainingData) -> None:
        train = data.some_pairs
        assert train.time is not None and data.moments is not None
        order = np.argsort(train.time, kind="stable")
        self._times, self._items = train.time[order], train.item[order]
        self._moments, self._count = data.moments, data.item_count

    def of(self, queries: Rows, days: float) -> Floats:
        """float32 (Q, N): share of each item; all zero where no event went before.

        Args:
            days: length of the window; `WHOLE` takes all that went before.
        """
        moments = self._moments[queries]
        last = self._times[-1] if len(self._times) else 0.0
        ends = np.searchsorted(self._times, moments, side="left")
        begins = np.zeros_like(ends)
        if days != WHOLE:
            begins = np.searchsorted(self._times, np.minimum(moments, last) - days * DAY, side="left")
        begins = np.minimum(begins, ends)
        shares = np.zeros((len(queries), self._count), np.float32)
        counts = np.zeros(self._count, np.int64)
        low = high = 0
        for query in np.lexsort((begins, ends)):  # the window moves on from one query to the next
            begin, end = int(begins[query]), int(ends[query])
            counts += np.bincount(self._items[high:end], minlength=self._count)
            counts -= np.bincount(self._items[low:begin], minlength=self._count)
            low, high = begin, end
            shares[query] = counts / max(1, end - begin)
        return shares
