"""The step `encode`: documents, towers, and the vectors of all documents."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from export.benchmark.scale.measuring import settings
from export.benchmark.scale.measuring.documents import QUERIES as QUERY_STREAM
from export.benchmark.scale.measuring.documents import Documents
from export.encoding import ItemTower, TableRecords, encode_all, encode_into
from export.onnx.export import export_tower, frozen
from export.onnx.runtimes import onnx_encoder
from protos import bundle
from protos.features import SIDES, Schema
from protos.system import memory
from train.models.initialization import initialize_tfidf
from train.models.prepared_inputs import PreparedInputs
from train.models.tower_factory import build_towers, hashing_of
from train.progress import PROGRESS

EXAMPLE_COUNT = 20  # example queries of the bundle
SCHEMA = Schema(settings.FEATURES, settings.FEATURES)


def encode(folder: Path, items: int, seed: int) -> dict[str, Any]:
    """Generate a catalogue and encode it; an interrupted encoding continues."""
    documents = Documents(seed, items)
    with PROGRESS.status(f"{items:,} documents"):
        documents.write_items(folder / settings.ITEMS)
    with PROGRESS.status("towers"):
        sample = next(documents.slices())[: settings.SAMPLE]
        _export_towers(folder, sample, seed)
    own_peak = memory.reset_peak()
    path, inputs = folder / bundle.ITEM_TOWER, SCHEMA.side("item")
    tower = ItemTower(path, inputs, settings.DIMENSION, onnx_encoder(path, threads=0))
    with PROGRESS.status("checking the documents"):
        records = TableRecords.open(folder / settings.ITEMS, settings.FEATURES)
    streamed = encode_into(folder / bundle.VECTORS, tower, records, PROGRESS, "items")
    found = {
        "items_per_s": streamed.items_per_s,
        "seconds": items / streamed.items_per_s,
        "peak_bytes": memory.peak(),
        "peak_is_own": own_peak,
        "characters": sum(map(len, sample)) / len(sample),
        "example": sample[0],
    }
    queries, _ = documents.draw(QUERY_STREAM, 0, settings.QUERIES)
    encoder = onnx_encoder(folder / bundle.QUERY_TOWER, threads=0)
    vectors = encode_all(encoder, SCHEMA.side("query"), {"text": queries}, PROGRESS, "queries")
    np.save(folder / settings.QUERY_VECTORS, vectors)
    (folder / settings.EXAMPLES).write_text(json.dumps(queries[:EXAMPLE_COUNT]))
    return found


def _export_towers(folder: Path, sample: list[str], seed: int) -> None:
    """Write both untrained towers as ONNX; `sample` are texts of items."""
    torch.manual_seed(seed)
    towers = build_towers(settings.TOWER, SCHEMA)
    corpus = PreparedInputs(SCHEMA, "item", {"text": sample}, hashing_of(settings.TOWER))
    initialize_tfidf(towers, corpus, settings.TOWER.latent, seed)
    for tower, side in zip(towers, SIDES, strict=True):
        inputs = SCHEMA.side(side)
        example = inputs.to_arrays({"text": [sample[0]] * 2})
        export_tower(frozen(tower), inputs.features, example, folder / bundle.TOWERS[side])
