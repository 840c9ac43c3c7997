"""BM25 or TF-IDF beside the vectors: a lexical index in the bundle, and one score of both.

lexical_index.py   texts -> terms and their postings; the files of a bundle
term_weights.py    how a term weighs in a text and in a query
fusion.py          candidates of both sides, ranked by (1 - weight) * dense + weight * lexical;
                   items that were clicked after the same query get more
fusion.c           the same, compiled; without it NumPy does the work, eight times as slowly

The statistics (idf, mean length) are computed once, at export, over the texts of the items. A service scores
live items by the same statistics, and a refreshed bundle keeps them. Export measures with the code that
serves.
"""
