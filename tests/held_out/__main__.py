"""`python -m tests.held_out senses changes lectures`: make the data, train with the defaults, report."""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.held_out import changes, lectures, report, senses
from twinspire.protos.bundle import write_file
from twinspire.protos.errors import TwinspireError

# Data set -> its module, and the metrics of the table.
SETS = {
    "senses": (senses, ("recall_at_10", "mrr_at_10", "ndcg_at_10")),
    "changes": (changes, ("ndcg_at_10", "hr_at_10", "recall_at_20")),
    "lectures": (lectures, ("auc", "log_loss", "ndcg_at_10")),
}


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0, 1 if a package cannot be had, or the exit code of a training or an export that failed.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.held_out", description=__doc__)
    parser.add_argument("sets", nargs="+", choices=SETS, metavar="NAME", help=f"of {', '.join(SETS)}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of training (0 1 2)")
    parser.add_argument(
        "--folder",
        type=Path,
        default=report.ROOT / ".cache" / "held_out",
        help="for packages, tables, runs and figures (%(default)s)",
    )
    parser.add_argument("--data", action="store_true", help="only make the tables")
    parsed = parser.parse_args(argv)
    for name in parsed.sets:
        module, metrics = SETS[name]
        folder = (parsed.folder / name).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            module.make(module.PACKAGE.texts(parsed.folder), folder)
        except TwinspireError as error:
            sys.stderr.write(f"error: {error}\n")
            return 1
        config = Path(shutil.copy(Path(__file__).with_name(f"{name}.toml"), folder))
        if parsed.data:
            sys.stdout.write(f"{config}\n")
            continue
        try:
            found = dict(zip(parsed.seeds, report.qualities(config, parsed.seeds), strict=True))
        except subprocess.CalledProcessError as error:
            return error.returncode  # the command has said why
        write_file(folder / "figures.json", (json.dumps(found, indent=2) + "\n").encode())
        sys.stdout.write("\n".join(report.table(name, found, metrics)) + "\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
