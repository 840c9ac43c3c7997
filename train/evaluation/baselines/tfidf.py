"""Cosine of TF-IDF over what the towers read, of character n-grams or of words: validation chooses."""

from functools import partial

from train.evaluation.lexical_choice import fitted, has_texts
from train.evaluation.ranking import Baseline, FittedBaseline, Fitting
from train.metrics import CUTOFFS


def _fit(fitting: Fitting) -> FittedBaseline:
    tfidf = fitted(fitting, "tfidf", cut=True)
    return FittedBaseline(partial(tfidf.rank, max(CUTOFFS)), tfidf.settings.shown("tfidf"))


BASELINE = Baseline("tfidf", "TF-IDF", has_texts, _fit, "texts on both sides")
