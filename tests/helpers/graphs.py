"""Graphs by the settings of an experiment; the tuner chooses what these leave open."""

import hnswlib

from export import ann
from protos.bundle import IndexParameters, Score
from train.config.index import IndexConfig


def parameters(config: IndexConfig, ef_search: int) -> IndexParameters:
    """Parameters with the settings, M 16 and ef_construction 200 where they are open."""
    return IndexParameters(ann.SPACE, config.m or 16, config.ef_construction or 200, ef_search, config.seed)


def build(vectors: ann.Vectors, config: IndexConfig, score: Score = ann.COSINE) -> hnswlib.Index:
    """A graph with these parameters."""
    return ann.build_graph(parameters(config, config.k), vectors, score, config.threads)
