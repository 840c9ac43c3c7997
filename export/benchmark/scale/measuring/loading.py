"""The step `load`: a bundle of the catalogue, verified, loaded and warmed up by new processes of the service.

`export` must not import `serving`, so the retriever runs in processes of its own.
"""

import json
import os
import statistics
from pathlib import Path
from typing import Any

from export import ann
from export.benchmark.isolated_process import ask_of_bundle
from export.benchmark.scale.measuring.settings import DIMENSION, EXAMPLES, FEATURES, ITEMS, index_config
from protos import bundle
from protos.bundle import Manifest
from protos.features import Schema
from train.progress import PROGRESS

LOADS = 3  # the median counts
FILES = (bundle.QUERY_TOWER, bundle.ITEM_TOWER, bundle.VECTORS, bundle.INDEX)


def load(folder: Path, items: int, seed: int) -> dict[str, Any]:
    """Write the bundle and load it a few times."""
    with PROGRESS.status(f"a bundle of {items:,} items"):
        made = write(folder, items, seed)
    loads = []
    for n in range(LOADS):
        with PROGRESS.status(f"loading it, {n + 1} of {LOADS}"):
            found = ask_of_bundle(made, {"task": "load"})
            loads.append({"seconds": found.pop("load_s"), **found})
    figures = ("seconds", "rss_bytes", "pss_bytes", "peak_bytes", "before_bytes")
    return {
        **{name: _median([each[name] for each in loads]) for name in figures},
        "bundle_bytes": sum(record.size for record in bundle.read_manifest(made).files.values()),
        "loads": loads,
    }


def write(folder: Path, items: int, seed: int) -> Path:
    """Write a bundle of the files of the other steps; all items are equally popular."""
    ef_search = json.loads((folder / "search.json").read_bytes())["ef_search"]
    examples = json.loads((folder / EXAMPLES).read_bytes())

    def fill(draft: Path) -> None:
        for name in FILES:
            os.link(folder / name, draft / name)
        lines = (folder / ITEMS).read_text(encoding="utf-8").splitlines()[1:]
        ids, texts = zip(*(line.split("\t") for line in lines), strict=True)
        content = {"ids": ids, "popularity": [1 / items] * items, "fields": {"text": texts}}
        (draft / bundle.ITEMS).write_text(json.dumps(content))

    manifest = Manifest(
        name="scale",
        run_id="0" * 32,
        git_commit="",
        dataset={"kind": "synthetic", "items": items, "seed": seed},
        split_hash="0" * 64,
        dimension=DIMENSION,
        count=items,
        schema=Schema(FEATURES, FEATURES),
        index=ann.parameters(index_config(seed), ef_search),
        display_fields=("text",),
        examples=tuple({"text": text} for text in examples),
        quality={},
        parity={},
        ann={},
        latency={},
    )
    return bundle.write(folder / "bundles", manifest, fill)


def _median(values: list[float | None]) -> float | None:
    """The median; None if a system does not know a value."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
