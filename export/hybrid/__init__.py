"""BM25 or TF-IDF beside the vectors: whether a bundle gets it, with which weight, and its files.

choose.py      learns the lexical model and the weight on validation, and decides by what was measured
postings.py    a lexical model over texts -> the lexical index of a bundle
rebuild.py     the lexical index of a bundle over other items, with its own statistics
"""
