"""Groups of the queries of a part: known and new ones, frequent and rare ones, and all of them by event.

A model can memorise the answers to a training query. So where queries repeat, as in a log of clicks, the mean
over all queries says little about new ones. Nor does a mean over distinct queries say what most users get,
because few queries make most of the traffic.

| group    | queries                                                                        |
|----------|--------------------------------------------------------------------------------|
| `seen`   | with the words of a training query (`protos/inputs/query_words.py`)                |
| `unseen` | all others                                                                     |
| `head`   | the most frequent training queries that together make half of its events       |
| `tail`   | all others, with those that are unseen                                         |
| `traffic` | all, each by the events of it that the part has                                |

An event counts by the weight of its pair. Where queries are about equally frequent, ties would put most
events into the head; then there are neither head nor tail.
"""

import numpy as np
import numpy.typing as npt

from twinspire.train.data.training_data import TrainingData

Floats = npt.NDArray[np.float64]
GROUPS = ("seen", "unseen", "head", "tail", "traffic")
HEAD = 0.5  # share of the training events
LARGEST_HEAD = 0.6  # the same, with ties


def query_groups(data: TrainingData, part: str) -> dict[str, Floats]:
    """Name -> (Q,), the weight of each query of `Pairs.by_query` in a group; without empty groups.

    Empty if queries have no texts, or no query of the part is in training.
    """
    if data.query_words is None:
        return {}
    pairs, trained = data.parts[part].positive(), data.parts["train"].positive()
    queries, query = np.unique(pairs.query, return_inverse=True)
    words_of = data.query_words[trained.query]
    known, count = words_of >= 0, int(data.query_words.max(initial=0)) + 1
    events: Floats = np.bincount(words_of[known], trained.weight[known], count).astype(np.float64)
    words = data.query_words[queries]
    frequency = np.where(words >= 0, events[words], 0)
    seen = is_trained(data, queries)
    if not seen.any():
        return {}
    found = {"seen": seen, "unseen": ~seen}
    if (least := _least_of_head(events)) is not None:
        found |= {"head": frequency >= least, "tail": frequency < least}
    groups = {name: which.astype(np.float64) for name, which in found.items()}
    groups["traffic"] = np.bincount(query, pairs.weight).astype(np.float64)
    return {name: weights for name, weights in groups.items() if weights.any()}


def is_trained(data: TrainingData, queries: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which query rows (Q,) have the words of a query of positive training pairs; none without texts."""
    if data.query_words is None:
        return np.zeros(len(queries), bool)
    words, trained = data.query_words[queries], data.parts["train"].positive()
    return np.isin(words, data.query_words[trained.query[trained.weight > 0]]) & (words >= 0)


def repeated_share(data: TrainingData, part: str) -> float:
    """The share of the positive pairs of a part whose query is also one of training."""
    known = is_trained(data, data.parts[part].positive().query)
    return float(known.mean()) if len(known) else 0.0


def _least_of_head(events: Floats) -> float | None:
    """The events of the rarest query of the head, with all ties; None if these make it too large."""
    descending = np.sort(events)[::-1]
    last = np.searchsorted(descending.cumsum(), HEAD * descending.sum())
    least, head = float(descending[last]), events[events >= descending[last]]
    has_more_ties = len(head) > last + 1
    return None if has_more_ties and head.sum() > LARGEST_HEAD * events.sum() else least
