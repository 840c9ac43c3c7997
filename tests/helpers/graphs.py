"""Graphs by the settings of an experiment."""

import hnswlib

from twinspire.export import ann
from twinspire.protos.bundle import IndexParameters, Score
from twinspire.train.config.index import IndexConfig


def parameters(config: IndexConfig, ef_search: int) -> IndexParameters:
    return IndexParameters(ann.SPACE, config.m, config.ef_construction, ef_search, config.seed)


def build(vectors: ann.Vectors, config: IndexConfig, score: Score = ann.COSINE) -> hnswlib.Index:
    return ann.build_graph(parameters(config, config.k), vectors, score, config.threads)
