"""BM25 over what the towers read: texts cut to their `max_length` (Robertson and Zaragoza 2009)."""

from twinspire.train.evaluation.lexical_choice import has_texts, lexical_baseline
from twinspire.train.evaluation.ranking import Baseline

BASELINE = Baseline("bm25", "BM25", has_texts, lexical_baseline("bm25", cut=True), "texts on both sides")
