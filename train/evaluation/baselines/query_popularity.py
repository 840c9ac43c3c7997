"""The items with most training pairs of the same query, best first, then all others by BM25.

Queries are the same if their words are (`protos/inputs/query_words.py`); a blank one equals no other.

In a click log this is what a shop has without any model: the items that were clicked most after this query.
"""

import numpy as np
import scipy.sparse

from train.config import Experiment
from train.data.training_data import TrainingData
from train.evaluation.lexical_choice import fitted, has_texts
from train.evaluation.query_groups import repeated_share
from train.evaluation.ranking import Baseline, BaselineFitter, FittedBaseline


def _has_known_queries(experiment: Experiment, data: TrainingData) -> bool:
    """Whether a query of validation or test is in training, too; else the ranking is that of BM25."""
    if not has_texts(experiment, data):
        return False
    before = data.before_refit or data  # a refit trains on the validation queries themselves
    return any(repeated_share(before, part) for part in ("validation", "test"))


def _fit(fitter: BaselineFitter) -> FittedBaseline:
    data = fitter.data
    words = data.query_words
    assert words is not None
    pairs = data.parts["train"].positive()
    pairs = pairs.where(words[pairs.query] >= 0)
    places = (words[pairs.query], pairs.item)
    shape = (int(words.max()) + 2, data.item_count)  # the last row, without clicks, is that of blank queries
    clicks = scipy.sparse.csr_matrix((pairs.weight.astype(np.float64), places), shape)  # sums equal pairs
    clicks.eliminate_zeros()
    # Weights need not be whole numbers; their ranks are, and have the same order.
    clicks.data = np.unique(clicks.data, return_inverse=True)[1] + 1.0
    bm25 = fitted(fitter, "bm25", cut=True)
    return FittedBaseline(lambda rows: bm25.rank(rows, clicks[words[rows]]))


BASELINE = Baseline(
    "query_popularity",
    "query popularity",
    _has_known_queries,
    _fit,
    "texts on both sides, and a query of validation or test whose words are in training, too",
)
