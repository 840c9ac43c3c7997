"""The options of the commands of export; parsing them imports nothing of what the commands do."""

from argparse import ArgumentParser, ArgumentTypeError
from datetime import datetime
from functools import partial
from pathlib import Path

from twinspire.protos.mlflow_keys import REASON_LENGTH


def add_options(name: str, command: ArgumentParser) -> None:
    """Add the options that a command has beside `--config` and `--json`."""
    add = command.add_argument
    if name == "bundle":
        add("--run", default="", help="id of the MLflow run (default: that of the settings, or the newest)")
    if name in ("bench", "encode", "evaluate", "register"):
        add("--bundle", type=Path, help="folder of the bundle (default: the newest)")
    if name == "encode":
        add(
            "--items",
            type=Path,
            required=True,
            help="table of items, in a format of the experiment",
        )
        add("--output", type=partial(path_with, ".npy"), required=True, help="the .npy file to write")
    if name == "promote":
        add("--force", action="store_true", help="promote even if gates fail; requires --reason")
    if name == "prune":
        add("--dry-run", action="store_true", help="only tell which collections they are")
    if name in ("refresh", "retrain", "catalogue"):
        store = "store of live items (default: that of the service)"
        add("--catalogue", default="", metavar="URL", help=store)
    if name == "refresh":
        table = "table in place of the champion's items, in a format that the experiment may read"
        add("--items", type=Path, help=table)
    if name == "catalogue":
        file = partial(path_with, ".parquet")
        add("--output", type=file, required=True, help="the .parquet file to write")
    _add_release_options(name, command)


def _add_release_options(name: str, command: ArgumentParser) -> None:
    add = command.add_argument
    if name in ("judge", "promote", "drift"):
        required = name != "promote"
        log = "folder that `serve --served-log` writes"
        add("--served-log", type=Path, required=required, metavar="FOLDER", help=log)
    if name == "drift":
        start = "first time of the window, by ISO 8601 (default: a day before its end)"
        add("--since", type=datetime.fromisoformat, metavar="TIME", help=start)
        add("--until", type=datetime.fromisoformat, metavar="TIME", help="its end (default: now)")
        against = "compare queries with those of another window, not with the bundle's"
        add("--against", type=datetime.fromisoformat, nargs=2, metavar=("SINCE", "UNTIL"), help=against)
    if name in ("judge", "promote"):
        required = name == "judge"
        events = "Parquet that `python -m twinspire.serving.events export` writes"
        add("--events", type=Path, required=required, metavar="FILE", help=events)
        types = "types of the events that count as clicks (default: click)"
        add("--types", nargs="+", default=["click"], metavar="TYPE", help=types)
    if name == "rollback":
        add("--to", default="", help="version to make champion (default: the previous champion)")
    if name in ("promote", "rollback"):
        add("--reason", type=reason, default="", help="reason, for the audit log")


def path_with(suffix: str, text: str) -> Path:
    """An output path; the suffix is checked to protect the items' file from a mix-up of arguments.

    Raises:
        ArgumentTypeError: it does not end so.
    """
    path = Path(text)
    if path.suffix != suffix:
        raise ArgumentTypeError(f"expected a name that ends in {suffix}, got {text!r}")
    return path


def reason(text: str) -> str:
    """A reason that fits into the registry and into a table.

    Raises:
        ArgumentTypeError: it is too long, or has characters that cannot be printed.
    """
    words = " ".join(text.split())
    if len(words) > REASON_LENGTH or not words.isprintable():
        raise ArgumentTypeError(f"expected up to {REASON_LENGTH} printable characters")
    return words
