"""BM25 over the whole texts, where the towers read a part of them."""

from twinspire.train.evaluation.lexical_choice import has_cut_texts, lexical_baseline
from twinspire.train.evaluation.ranking import Baseline

BASELINE = Baseline(
    "bm25_full",
    "BM25, full texts",
    has_cut_texts,
    lexical_baseline("bm25", cut=False),
    "texts on both sides, of which one is longer than its max_length",
)
