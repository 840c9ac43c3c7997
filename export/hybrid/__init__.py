"""BM25 or TF-IDF beside the vectors: whether a bundle gets it, with which weight, and its files.

choose.py    learns the lexical model and the weight on validation, and decides by what was measured
priors.py    the clicks after the same query: their part of the score, and its weight
postings.py  a lexical model over texts, and priors -> the lexical index of a bundle, also of a refreshed one
"""
