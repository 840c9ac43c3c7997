"""Readers of collections, one module for each kind of remote index."""
