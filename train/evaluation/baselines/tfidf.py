"""Cosine of TF-IDF over what the towers read, of character n-grams or of words: validation chooses."""

from twinspire.train.evaluation.lexical_choice import has_texts, lexical_baseline
from twinspire.train.evaluation.ranking import Baseline

BASELINE = Baseline("tfidf", "TF-IDF", has_texts, lexical_baseline("tfidf", cut=True), "texts on both sides")
