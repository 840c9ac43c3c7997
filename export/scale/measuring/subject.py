"""What all steps of a size share: names of files, features, parameters of tower and index."""

from pathlib import Path
from typing import Any

import numpy as np

from protos.features import FeatureSpec, TextFeature
from train.config import BagTower, IndexConfig

ITEMS = "items.tsv"
QUERY_VECTORS = "query_vectors.npy"
EXAMPLES = "examples.json"  # texts of the first queries
CODES, SCALES = "codes.i8", "scales.f32"  # bare numbers, row after row
NEAREST = "nearest.npy"  # rows that are nearest to each query in float32

DIMENSION = 64
TARGET = 0.98  # recall
K = 10  # items of an answer, as most are
SAMPLE = 20_000  # items, at most, that the towers take IDF and latent directions from
QUERIES = 2_000  # a half to choose the search width on, a half to measure it on
FEATURES: dict[str, FeatureSpec] = {"text": TextFeature("text", "text", max_length=128)}
TOWER = BagTower("bag", dimension=DIMENSION, latent=DIMENSION // 4)


def index_config(seed: int) -> IndexConfig:
    """How every graph is built: on all cores."""
    return IndexConfig(m=16, ef_construction=200, recall_target=TARGET, k=K, seed=seed, threads=0)


def mapped(path: Path) -> Any:
    """An array mapped from its file; torch warns of what it may not write to, so it is a private copy."""
    return np.load(path, mmap_mode="c", allow_pickle=False)
