"""Snapshot, copy and compaction of the store of live items, for use outside the service.

    python -m twinspire.serving.catalogue snapshot changes.jsonl --catalogue sqlite:///items.db
    python -m twinspire.serving.catalogue backup copy.db
    python -m twinspire.serving.catalogue restore copy.db
    python -m twinspire.serving.catalogue compact --keep 3f2a9c0d... --keep 77b1...

A snapshot is one state of the store. The first line of its file is {"store", "sequence", "mark",
"after"}, and the others are changes as `serving.live.store.records.Change` has them, lowest sequence first.

A backup copies a store in SQLite while it is written to. A restore, with the services stopped, puts a copy in
the place of the store and gives it a new id, so that everything is encoded anew; the store before stays as
<name>.before-restore. PostgreSQL has tools of its
own for both; after them `restore` without a file gives the id.

Compaction removes what no bundle needs: the answers to requests that are too old to be repeated, SQLite's
write-ahead log, and the items that bundles have encoded on this host, other than those of the bundles to
keep; these can be encoded again. While a service of this host uses the store, all encoded items stay. The
store has one row for each item, so there is no log of changes to shorten. Its rows stay: a rollback encodes
again what came after an older bundle, and a delete must outlive each bundle and each table of items that
holds the item.
"""

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twinspire.protos.bundle import whole_file
from twinspire.protos.cli import CommandParser
from twinspire.protos.errors import ConfigError, MissingStage, TwinspireError, Unavailable
from twinspire.protos.files.file_lock import exclusive_lock
from twinspire.serving.live.config import LIVE, default_url
from twinspire.serving.live.encoded_items import LOCK
from twinspire.serving.live.encoding.bundle_encoders import prune
from twinspire.serving.live.store import database
from twinspire.serving.live.store.records import Position
from twinspire.serving.live.store.store import Store

NO_STORE = "catalogue: there is no store at this URL; a service with --catalogue makes one"


def snapshot(url: str, output: Path, after: int = 0, store_id: str = "", mark: int = 0) -> dict[str, Any]:
    """Write a snapshot of a store to a file; returns its first line.

    Args:
        output: the file, written atomically.
        after: only changes after this sequence are written, provided that the store's id is `store_id`;
            otherwise all changes are.
        store_id: id of the store that `after` is a sequence of.
        mark: of the store at that sequence; 0 if it is not known.

    Raises:
        ConfigError, Unavailable: as `Store.open`; or the store has never been at `after`.
        MissingStage: there is no store.
    """
    with closing(_open(url)) as store:
        first = after if store.store_id == store_id else 0
        if first and store.was_at(Position(first, mark)) is False:
            raise Unavailable(
                f"catalogue: sequence {first} is of another history of the store, which was restored from a "
                "copy; start the service, which gives the store a new id, and read again"
            )
        with store.snapshot(first) as (position, changes), whole_file(output) as file:
            head = {"store": store.store_id, **position._asdict(), "after": first}
            file.write(json.dumps(head).encode() + b"\n")
            for each in changes:
                line = each._asdict()
                del line["written_at"]
                file.write(json.dumps(line).encode() + b"\n")
    return head


def backup(url: str, output: Path) -> dict[str, Any]:
    """Copy a store in SQLite to a file, as it is now; it may be written to meanwhile.

    Args:
        output: the file, written atomically.

    Raises:
        ConfigError: the store is not in SQLite, is none or is damaged, or cannot be copied; or the file is
            the store's own.
        MissingStage: there is no store.
    """
    path = database.file_of(url)
    if database.is_missing(url):
        raise MissingStage(NO_STORE)
    return dict(zip(("store", "sequence"), database.copy_file(path, output), strict=True))


def restore(url: str, copy: Path | None) -> dict[str, Any]:
    """Put a copy in the place of a store in SQLite, and give the store a new id.

    The store before, if there is one, is kept beside it as `<name>.before-restore`.

    Args:
        copy: as `backup` has made it; None if a tool of the database has restored it.

    Raises:
        ConfigError, Unavailable: as `Store.open`; or the store is not in SQLite, or a service uses it; or
            the copy is damaged.
        MissingStage: there is no copy; or, without one, no store.
    """
    if copy is None:
        with closing(_open(url)) as store:
            store.assign_new_id()
        return _state(url)
    path = database.file_of(url)
    if not copy.is_file():
        raise MissingStage(f"{copy}: there is no copy of a store here; `backup` makes one")
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        draft = Path(folder) / path.name
        database.copy_file(copy, draft)
        try:
            opened = Store.open(f"sqlite:///{draft}", check=True)
        except ConfigError as error:
            raise ConfigError(f"{copy}: {error}") from error.__cause__
        with closing(opened) as store:
            store.assign_new_id()
        database.replace_file(path, draft)
    return _state(url)


def compact(url: str, place: Path, keep: Sequence[str]) -> dict[str, Any]:
    """Remove what no bundle needs.

    Args:
        place: folder of live items, with what bundles have encoded of the store.
        keep: versions of bundles that may be served again soon; their encoded items stay.

    Returns:
        `answers_forgotten` and `bundles_removed`: numbers of removed answers, and of bundles whose items
            were removed.

    Raises:
        ConfigError, Unavailable: as `Store.open`.
        MissingStage: there is no store.
    """
    with closing(_open(url)) as store:
        forgotten = store.compact()
        folder = place / store.store_id
    before = {path.name for path in folder.glob("*") if path.is_dir()}
    if folder.exists():
        busy = BlockingIOError()
        with suppress(BlockingIOError), exclusive_lock(folder / LOCK, busy):
            prune(folder, keep)
    after = {path.name for path in folder.glob("*")}
    return {"answers_forgotten": forgotten, "bundles_removed": len(before - after)}


def _open(url: str) -> Store:
    with database.operator_errors(url, database.CATALOGUE):
        if database.is_missing(url):
            raise MissingStage(NO_STORE)
        return Store.open(url)


def _state(url: str) -> dict[str, Any]:
    with closing(_open(url)) as store:
        return {"store": store.store_id, "sequence": store.sequence()}


def _parser() -> ArgumentParser:
    parser = CommandParser(prog="python -m twinspire.serving.catalogue", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, text: str, run: Callable[[str, Namespace], dict[str, Any]]) -> ArgumentParser:
        command: ArgumentParser = commands.add_parser(name, help=text)
        command.set_defaults(run=run)
        command.add_argument("--catalogue", default="", metavar="URL", help="of the store (default: serve's)")
        return command

    reading = add(
        "snapshot",
        "write one state of the store to a file",
        lambda url, given: snapshot(url, given.output, given.after, given.store, given.mark),
    )
    reading.add_argument("output", type=Path, help="the file")
    reading.add_argument("--after", type=int, default=0, help="only changes after this sequence")
    text = "the mark beside that sequence in the earlier snapshot's first line"
    reading.add_argument("--mark", type=int, default=0, help=text)
    reading.add_argument("--store", default="", help="id of the store that --after refers to")
    text = "copy a store in SQLite to a file"
    copying = add("backup", text, lambda url, given: backup(url, given.output))
    copying.add_argument("output", type=Path, help="the file")
    text = "put a copy in the place of the store, with a new id"
    restoring = add("restore", text, lambda url, given: restore(url, given.copy))
    restoring.add_argument("copy", type=Path, nargs="?", help="the copy; without it, only give the id")
    text = "remove what no bundle needs"
    compacting = add("compact", text, lambda url, given: compact(url, given.place, given.keep))
    compacting.add_argument("--keep", action="append", default=[], help="version of a bundle")
    compacting.add_argument("--place", type=Path, default=LIVE, help="folder of live items (%(default)s)")
    return parser


def main() -> None:
    """Run one command, and print its result as JSON.

    `snapshot` and `compact` print null if there is no store at the default URL: then there are no live items.
    """
    given = _parser().parse_args()
    is_optional = given.command in ("snapshot", "compact") and not given.catalogue
    try:
        none = is_optional and database.is_missing(default_url())
        found = None if none else given.run(given.catalogue or default_url(), given)
    except (TwinspireError, OSError) as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(f"{json.dumps(found)}\n")


if __name__ == "__main__":
    main()
