"""`python -m export encode`: a table of items through the item tower of a bundle, into a `.npy` file."""

import argparse
import resource
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from rich.console import Console

from export.backends import onnx_encoder
from export.catalogue import ItemTower, TableRecords, encode_into
from export.stages import bundle_of
from protos import bundle
from train.command import PROGRESS
from train.config import read_experiment


def encode(arguments: Namespace) -> dict[str, Any]:
    """Encode a table of items with a bundle's item tower; after a kill, go on where it ended."""
    experiment = read_experiment(arguments.config)
    folder, manifest = bundle_of(experiment, arguments.bundle)
    path = folder / bundle.ITEM_TOWER
    inputs = manifest.schema.side("item")
    tower = ItemTower(path, inputs, manifest.dimension, onnx_encoder(path, threads=0))
    id_column = getattr(experiment.data, "item_id", "item_id")  # sources of our own call it that
    with PROGRESS.status(f"checking {arguments.items}"):
        records = TableRecords.open(arguments.items, manifest.schema.item, id_column)
    streamed = encode_into(arguments.output, tower, records, PROGRESS, "items")
    return {
        "output": str(arguments.output),
        "items": len(records),
        "dimension": manifest.dimension,
        "items_per_s": streamed.items_per_s,
        "resumed_at": streamed.resumed_at,
        "peak_rss_mib": _peak_rss_mib(),
        "bundle": str(folder),
        "bundle_version": manifest.bundle_version,
    }


def _peak_rss_mib() -> float:
    """The most memory that this process has held at a time, mapped files and all."""
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def npy_path(text: str) -> Path:
    """The path of a file to be written, which shall not be that of the items by mistake.

    Raises:
        ArgumentTypeError: it does not end in `.npy`.
    """
    path = Path(text)
    if path.suffix != ".npy":
        raise argparse.ArgumentTypeError(f"expected a name that ends in .npy, got {text!r}")
    return path


def show_encoded(result: dict[str, Any], console: Console) -> None:
    """How many vectors there are, where, how fast they came and in how much memory."""
    resumed = f", resumed at {result['resumed_at']:,}" if result["resumed_at"] else ""
    console.print(
        f"{result['items']:,} vectors of dimension {result['dimension']}: {result['output']}", soft_wrap=True
    )
    console.print(
        f"{result['items_per_s']:,.0f} items/s{resumed}; peak memory {result['peak_rss_mib']:,.0f} MiB",
        highlight=False,
    )
