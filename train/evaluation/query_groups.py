"""Groups of the queries of a part: known and new ones, frequent and rare ones, and all of them by event.

A model can memorise the answers to a training query. So where queries repeat, as in a log of clicks, the mean
over all queries says little about new ones. Nor does a mean over distinct queries say what most users get,
because few queries make most of the traffic.

| group    | queries                                                                        |
|----------|--------------------------------------------------------------------------------|
| `seen`   | with the words of a training query (`train/data/query_words.py`)                |
| `unseen` | all others                                                                     |
| `head`   | the most frequent training queries that together make half of its events       |
| `tail`   | all others, with those that are unseen                                         |
| `traffic` | all, each as often as the part has events of it                                |
"""

import numpy as np
import numpy.typing as npt

from train.data.training_data import TrainingData

Rows = npt.NDArray[np.int64]
GROUPS = ("seen", "unseen", "head", "tail", "traffic")
HEAD = 0.5  # share of the training events


def query_groups(data: TrainingData, part: str) -> dict[str, Rows]:
    """Name -> int64, places of the group's queries in `Pairs.by_query`; groups without a query are left out.

    Empty if queries have no texts, or no query of the part is in training.
    """
    if data.query_words is None:
        return {}
    queries, events = np.unique(data.parts[part].positive().query, return_counts=True)
    trained = data.query_words[data.parts["train"].positive().query]
    counts = np.bincount(trained[trained >= 0], minlength=int(data.query_words.max(initial=0)) + 1)
    words = data.query_words[queries]
    frequency = np.where(words >= 0, counts[words], 0)
    seen, head = frequency > 0, frequency >= _least_of_head(counts)
    if not seen.any():
        return {}
    found = {"seen": seen, "unseen": ~seen, "head": head, "tail": ~head}
    groups = {name: np.flatnonzero(which) for name, which in found.items()}
    groups["traffic"] = np.repeat(np.arange(len(queries)), events)
    return {name: places for name, places in groups.items() if len(places)}


def _least_of_head(counts: Rows) -> int:
    """The smallest number of training events of a query in the head, which includes all ties."""
    descending = np.sort(counts)[::-1]
    return int(descending[np.searchsorted(descending.cumsum(), HEAD * descending.sum())])
