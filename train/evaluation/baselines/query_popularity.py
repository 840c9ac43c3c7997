"""The items with most training pairs of the same query text, best first, then all others by BM25.

In a click log this is what a shop has without any model: the items that were clicked most after this query.
"""

import numpy as np
import scipy.sparse

from train.config import Experiment
from train.data.training_data import TrainingData, text_numbers
from train.evaluation.lexical_choice import fitted, has_texts
from train.evaluation.ranking import Baseline, FittedBaseline, Fitting
from train.metrics import CUTOFFS


def _has_known_queries(experiment: Experiment, data: TrainingData) -> bool:
    """Whether a text of validation or test is in training, too; else the ranking is that of BM25."""
    if not has_texts(experiment, data):
        return False
    parts = (data.before_refit or data).parts  # a refit trains on the validation queries themselves
    text = text_numbers(data.queries, experiment.query)
    known = text[parts["train"].positive().query]
    return any(np.isin(text[parts[part].positive().query], known).any() for part in ("validation", "test"))


def _fit(fitting: Fitting) -> FittedBaseline:
    data = fitting.data
    text = text_numbers(data.queries, fitting.experiment.query)
    pairs = data.parts["train"].positive()
    places = (text[pairs.query], pairs.item)
    shape = (int(text.max()) + 1, data.item_count)
    clicks = scipy.sparse.csr_matrix((pairs.weight.astype(np.float64), places), shape)  # sums equal pairs
    clicks.eliminate_zeros()
    # Weights need not be whole numbers; their ranks are, and have the same order.
    clicks.data = np.unique(clicks.data, return_inverse=True)[1] + 1.0
    bm25 = fitted(fitting, "bm25", cut=True)
    return FittedBaseline(lambda rows: bm25.rank(max(CUTOFFS), rows, clicks[text[rows]]))


BASELINE = Baseline(
    "query_popularity",
    "query popularity",
    _has_known_queries,
    _fit,
    "texts on both sides, and a query text of validation or test that is in training, too",
)
