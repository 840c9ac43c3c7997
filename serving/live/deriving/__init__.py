"""Derives the records of bundles from the changes of the store."""
