"""A bundle of the catalogue, verified, loaded and warmed up by fresh processes that serve.

Nothing here may import serving, so it is asked in processes of its own.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from export import index
from export.gates.apart import LIBRARIES
from export.scale.measuring import memory
from export.scale.measuring.subject import DIMENSION, EXAMPLES, FEATURES, ITEMS, index_config
from protos import bundle
from protos.bundle import Manifest
from protos.errors import BundleDamaged
from protos.features import Schema
from train.command import PROGRESS
from train.places import ROOT
from train.sources.table_slices import read_slices

LOADS = 3  # of which the median counts
SLICE = 50_000
FILES = (bundle.QUERY_TOWER, bundle.ITEM_TOWER, bundle.VECTORS, bundle.INDEX)
# Says when it has imported what it needs and when it has loaded, and waits each time to be looked at.
LOADER = """
import sys, time
from pathlib import Path
from serving.retriever import Retriever
print(0.0, flush=True)
sys.stdin.readline()
begun = time.perf_counter()
retriever = Retriever.load(Path(sys.argv[1]))
print(time.perf_counter() - begun, flush=True)
sys.stdin.readline()
"""


def load(folder: Path, items: int, seed: int) -> dict[str, Any]:
    """Write the bundle and load it a few times."""
    with PROGRESS.status(f"a bundle of {items:,} items"):
        made = write(folder, items, seed)
    loads = []
    for n in range(LOADS):
        with PROGRESS.status(f"loading it, {n + 1} of {LOADS}"):
            loads.append(_loaded(made))
    middle = {name: statistics.median(each[name] for each in loads) for name in ("seconds", "rss_bytes")}
    return {
        **middle,
        **{name: _median(loads, name) for name in ("pss_bytes", "peak_bytes", "before_bytes")},
        "bundle_bytes": sum(record.size for record in bundle.read_manifest(made).files.values()),
        "loads": loads,
    }


def write(folder: Path, items: int, seed: int) -> Path:
    """The bundle of what the other steps have left in `folder`, which stays there."""
    ef_search = json.loads((folder / "search.json").read_bytes())["ef_search"]
    examples = json.loads((folder / EXAMPLES).read_bytes())

    def fill(draft: Path) -> None:
        for name in FILES:
            os.link(folder / name, draft / name)
        with (draft / bundle.ITEMS).open("w", encoding="utf-8") as file:
            file.writelines(_catalogue(folder / ITEMS, items))

    manifest = Manifest(
        name="scale",
        run_id="0" * 32,
        git_commit="",
        dataset={"kind": "synthetic", "items": items, "seed": seed},
        split_hash="0" * 64,
        dimension=DIMENSION,
        count=items,
        schema=Schema(FEATURES, FEATURES),
        index=index.parameters(index_config(seed), ef_search),
        display_fields=("text",),
        examples=tuple({"text": text} for text in examples),
        quality={},
        parity={},
        ann={},
        latency={},
    )
    return bundle.write(folder / "bundles", manifest, fill)


def _catalogue(path: Path, items: int) -> Iterator[str]:
    """The text of `items.json`, a piece at a time; all items are equally popular."""
    yield '{"ids": ['
    yield from _listed(path, "item_id")
    yield '], "popularity": ['
    for begin in range(0, items, SLICE):
        shares = ", ".join([repr(1 / items)] * min(SLICE, items - begin))
        yield f"{', ' if begin else ''}{shares}"
    yield '], "fields": {"text": ['
    yield from _listed(path, "text")
    yield "]}}"


def _listed(path: Path, column: str) -> Iterator[str]:
    for n, frame in enumerate(read_slices(path, [column], SLICE)):
        yield f"{', ' if n else ''}{json.dumps(frame[column].to_list())[1:-1]}"


def _loaded(made: Path) -> dict[str, Any]:
    """Seconds and bytes of one fresh process.

    Raises:
        BundleDamaged: the process did not come to its end.
    """
    with subprocess.Popen(
        [sys.executable, "-c", LOADER, str(made.absolute())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **dict.fromkeys(LIBRARIES, "1")},
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            _said(process.stdout)
            before = memory.resident(process.pid)
            _go_on(process.stdin)
            seconds = _said(process.stdout)
            told = {
                "seconds": seconds,
                "before_bytes": before,
                "rss_bytes": memory.resident(process.pid),
                "pss_bytes": memory.proportional(process.pid),
                "peak_bytes": memory.peak(process.pid),
            }
            _go_on(process.stdin)
        except (ValueError, OSError):
            _, complaint = process.communicate()
            last = complaint.strip().rpartition("\n")[2]
            raise BundleDamaged(f"{made}: not loaded, ended with {process.returncode}: {last}") from None
    return told


def _said(output: TextIO | Any) -> float:
    return float(output.readline())


def _go_on(waiting: TextIO | Any) -> None:
    waiting.write("\n")
    waiting.flush()


def _median(loads: list[dict[str, Any]], name: str) -> float | None:
    known = [each[name] for each in loads if each[name] is not None]
    return statistics.median(known) if known else None
