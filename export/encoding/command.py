"""The command `encode` of export: encodes a table of items with a bundle's item tower into a `.npy` file."""

from argparse import Namespace
from typing import Any

from rich.console import Console

from twinspire.export.bundles import find_bundle
from twinspire.export.encoding.encoding import ItemTower, encode_into
from twinspire.export.encoding.records import TableRecords
from twinspire.protos.system import memory
from twinspire.train.config import Experiment
from twinspire.train.data.source import source_config
from twinspire.train.progress import PROGRESS


def encode(experiment: Experiment, arguments: Namespace) -> dict[str, Any]:
    """Encode a table of items with a bundle's item tower; resumes after a kill."""
    folder, manifest = find_bundle(experiment, arguments.bundle)
    tower = ItemTower.of(folder, manifest)
    with PROGRESS.status(f"checking {arguments.items}"):
        table = source_config(experiment.data).item_table()
        records = TableRecords(arguments.items, manifest.schema.item, table)
    streamed = encode_into(arguments.output, tower, records)
    return {
        "output": str(arguments.output),
        "items": len(records),
        "dimension": manifest.dimension,
        "items_per_s": streamed.items_per_s,
        "resumed_at": streamed.resumed_at,
        "peak_rss_mib": memory.peak() / 2**20,
        "bundle": str(folder),
        "bundle_version": manifest.bundle_version,
    }


def show_encoded(result: dict[str, Any], console: Console) -> None:
    """Print number, path, speed and memory of an encoding."""
    resumed = f", resumed at {result['resumed_at']:,}" if result["resumed_at"] else ""
    console.print(
        f"{result['items']:,} vectors of dimension {result['dimension']}: {result['output']}", soft_wrap=True
    )
    console.print(
        f"{result['items_per_s']:,.0f} items/s{resumed}; peak memory {result['peak_rss_mib']:,.0f} MiB",
    )
