"""python -m export.scale.measuring STEP --folder F --items N --seed S: measure one step of one size."""

import argparse
import importlib
import json
import sys
from pathlib import Path

from protos.bundle import write_file
from protos.errors import TwinspireError

# Step -> the module that has a function of its name: each imports what others do without.
STEPS = {
    "encode": "export.scale.measuring.encoding",
    "build": "export.scale.measuring.building",
    "search": "export.scale.measuring.searching",
    "load": "export.scale.measuring.loading",
    "vectors": "export.scale.measuring.vectors",
    "exact": "export.scale.measuring.exact",
}


def measure(step: str, folder: Path, items: int, seed: int) -> None:
    """Do one step, and leave what it has measured in `<step>.json`."""
    found = getattr(importlib.import_module(STEPS[step]), step)(folder, items, seed)
    write_file(folder / f"{step}.json", f"{json.dumps(found, allow_nan=False)}\n".encode())


def main() -> int:
    """Measure what the command line says."""
    parser = argparse.ArgumentParser("python -m export.scale.measuring", description=__doc__)
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--folder", type=Path, required=True, help="that the step finds and leaves files in")
    parser.add_argument("--items", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    try:
        measure(asked.step, asked.folder, asked.items, asked.seed)
    except TwinspireError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
