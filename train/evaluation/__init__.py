"""Exact search, metrics, baselines, and the plots of a run."""
