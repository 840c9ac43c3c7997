"""BM25 beside the vectors: a lexical index in the bundle, and one score of both.

lexical_index.py   texts -> terms and their postings; the files of a bundle
fusion.py          candidates of both sides, ranked by (1 - weight) * dense + weight * lexical, or by ranks
fusion.c           the same, compiled; without it NumPy does the work, eight times as slowly

The statistics (idf, mean length) are those of the texts that the index was built over, and stay as they are:
live items and refreshed bundles are scored by them. Export measures with the same code that serves.
"""
