"""Copies of bundles, changed and sealed again, also with a manifest that Twinspire would not write."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twinspire.protos import bundle

DEEP = b"[" * 200_000

Table = dict[str, Any]


def tampered(source: Path, folder: Path, change: Callable[[Table], None]) -> Path:
    """A copy of a bundle with a changed manifest, which is sealed again.

    Args:
        source: the bundle.
        folder: receives the copy.
        change: changes the manifest's table.
    """
    shutil.copytree(source, folder)
    reseal_table(folder, change)
    return folder


def reseal_table(folder: Path, change: Callable[[Table], None]) -> None:
    """Change the manifest of a bundle in place, and seal it again."""
    path = folder / bundle.MANIFEST
    table = json.loads(path.read_bytes())
    change(table)
    table["bundle_version"] = ""
    table["bundle_version"] = hashlib.sha256(_canonical(table)).hexdigest()
    path.write_bytes(_canonical(table))


def reseal(
    folder: Path, parent: Path, change: Callable[[Path], object] = lambda _: None, **manifest: Any
) -> Path:
    """A copy of a bundle in `parent` whose manifest describes the changed files.

    Args:
        change: alters the files of the copy in the folder that it is given.
        manifest: fields of the manifest that shall be something else.
    """

    def fill(draft: Path) -> None:
        shutil.copytree(folder, draft, dirs_exist_ok=True)
        (draft / bundle.MANIFEST).unlink()
        change(draft)

    return bundle.write(parent, dataclasses.replace(bundle.read_manifest(folder), **manifest), fill)


def listed(path: Path) -> Table:
    """The record of a file, as a manifest lists it."""
    content = path.read_bytes()
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def _canonical(table: Table) -> bytes:
    return f"{json.dumps(table, indent=2, sort_keys=True)}\n".encode()
