"""python -m export.benchmark.scale.measuring STEP FOLDER ITEMS SEED: one step of one size.

    encode    generate a catalogue, export towers, and encode all items
    build     build the graph over their vectors
    search    choose ef_search, then measure graph and exact search on other queries
    load      write a bundle, and load it in processes that serve
    vectors   generate another catalogue: int8 vectors only, and the nearest in float32
    exact     exact search over these

Each step is a process, so that its memory is its own. It leaves its files and `<step>.json` in the folder.
"""

import importlib
import json
import sys
from pathlib import Path

from protos.bundle import write_file
from protos.errors import TwinspireError

# Step -> the module with a function of its name. Each process imports only what its step needs.
STEPS = {
    "encode": "export.benchmark.scale.measuring.encoding",
    "build": "export.benchmark.scale.measuring.graph",
    "search": "export.benchmark.scale.measuring.graph",
    "load": "export.benchmark.scale.measuring.graph",
    "vectors": "export.benchmark.scale.measuring.int8_vectors",
    "exact": "export.benchmark.scale.measuring.int8_vectors",
}


def measure(step: str, folder: Path, items: int, seed: int) -> None:
    """Run one step, and write its figures to `<step>.json`."""
    found = getattr(importlib.import_module(STEPS[step]), step)(folder, items, seed)
    write_file(folder / f"{step}.json", f"{json.dumps(found, allow_nan=False)}\n".encode())


if __name__ == "__main__":
    try:
        measure(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))
    except TwinspireError as error:
        sys.exit(f"error: {error}")
