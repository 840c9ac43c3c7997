"""Encodes the changes of the store for the bundles."""
