"""Segments of items, and one searcher over them."""
