"""BM25 over what the towers read: texts cut to their `max_length` (Robertson and Zaragoza 2009)."""

from functools import partial

from train.evaluation.lexical_choice import fitted, has_texts
from train.evaluation.ranking import Baseline, FittedBaseline, Fitting
from train.metrics import CUTOFFS


def _fit(fitting: Fitting) -> FittedBaseline:
    bm25 = fitted(fitting, "bm25", cut=True)
    return FittedBaseline(partial(bm25.rank, max(CUTOFFS)), bm25.settings.shown("bm25"))


BASELINE = Baseline("bm25", "BM25", has_texts, _fit, "texts on both sides")
