"""The nearest items to a query, searched by int8 codes and compared in float32.

coded_vectors.py   vectors with their codes: exact search, and search in a graph
kernel.c           the arithmetic of both, compiled
search.py          exact search of a batch, and how wide a graph is searched
vectors.py         item vectors and their rounding
scores.py          how far two computations of a score may differ
links.py           the graph: the links of each item, and how they are read from a file
"""
