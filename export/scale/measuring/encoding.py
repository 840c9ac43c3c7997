"""Documents, towers, and all documents through the item tower, as `python -m export encode` does it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from export.backends import onnx_encoder
from export.catalogue import ItemTower, TableRecords, encode_all, encode_into
from export.graph import export_tower, frozen
from export.scale.measuring import memory
from export.scale.measuring.documents import QUERIES as QUERY_STREAM
from export.scale.measuring.documents import slices, topics_of, write_items
from export.scale.measuring.subject import (
    DIMENSION,
    EXAMPLES,
    FEATURES,
    ITEMS,
    QUERIES,
    QUERY_VECTORS,
    SAMPLE,
    TOWER,
)
from protos import bundle
from protos.features import Schema, Side
from train.build import build_towers, hashing_of
from train.command import PROGRESS
from train.corpus import Corpus
from train.start import start_text

EXAMPLE_COUNT = 20  # queries that a bundle brings with it
TOWERS: dict[Side, str] = {"query": bundle.QUERY_TOWER, "item": bundle.ITEM_TOWER}
SCHEMA = Schema(FEATURES, FEATURES)


def encode(folder: Path, items: int, seed: int) -> dict[str, Any]:
    """Make a catalogue and encode it; after a kill, go on where it ended."""
    topics = topics_of(seed, items)
    with PROGRESS.status(f"{items:,} documents"):
        write_items(folder / ITEMS, topics, seed, items)
    with PROGRESS.status("towers"):
        sample = next(slices(topics, seed, items)).texts[:SAMPLE]
        export_towers(folder, sample, seed)
    own_peak = memory.forget_peak()
    path, inputs = folder / bundle.ITEM_TOWER, SCHEMA.side("item")
    tower = ItemTower(path, inputs, DIMENSION, onnx_encoder(path, threads=0))
    with PROGRESS.status("checking the documents"):
        records = TableRecords.open(folder / ITEMS, FEATURES)
    streamed = encode_into(folder / bundle.VECTORS, tower, records, PROGRESS, "items")
    found = {
        "items_per_s": streamed.items_per_s,
        "peak_bytes": memory.peak(),
        "peak_is_own": own_peak,
        "topics": len(topics.words),
        "characters": _mean_length(sample),
        "example": sample[0],
    }
    _queries(folder, topics.documents(seed, QUERY_STREAM, 0, QUERIES).texts)
    return found


def export_towers(folder: Path, sample: Sequence[str], seed: int) -> None:
    """Write both towers at their start, as ONNX; they have learned nothing.

    Args:
        sample: of the items' texts.
    """
    torch.manual_seed(seed)
    towers = build_towers(TOWER, SCHEMA)
    corpus = Corpus(SCHEMA, "item", {"text": sample}, hashing_of(TOWER))
    start_text(towers, corpus, TOWER.latent, seed)
    for tower, (side, name) in zip(towers, TOWERS.items(), strict=True):
        inputs = SCHEMA.side(side)
        example = inputs.to_arrays({"text": [sample[0]] * 2})
        export_tower(frozen(tower), inputs.features, example, folder / name)


def _queries(folder: Path, texts: list[str]) -> None:
    encoder = onnx_encoder(folder / bundle.QUERY_TOWER, threads=0)
    vectors = encode_all(encoder, SCHEMA.side("query"), {"text": texts}, PROGRESS, "queries")
    np.save(folder / QUERY_VECTORS, vectors)
    (folder / EXAMPLES).write_text(json.dumps(texts[:EXAMPLE_COUNT]))


def _mean_length(texts: Sequence[str]) -> float:
    return sum(map(len, texts)) / len(texts)
