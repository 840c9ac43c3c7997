"""Measures one size of the scale report.

Results are stored under a key that covers the code of this package, so it holds what figures follow from and
nothing else.
"""
