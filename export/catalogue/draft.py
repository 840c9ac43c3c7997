"""A `.npy` file in the making, which survives the death of its maker.

    vectors.npy.part      the file so far: its header, then window after window
    vectors.npy.journal   what it is to become, and the sha256 of each window that is in it

A window is on the disk before the journal tells of it. Whoever goes on believes only what the journal
tells and the file holds. Windows are written with plain writes, as the pages of a memory map would count
as memory of this process until the kernel takes them back.
"""

import dataclasses
import fcntl
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from rich.console import Console

from export.catalogue.records import WINDOW
from protos.bundle import sync, write_file
from protos.config import parse
from protos.documents import parse_json
from protos.errors import DataError, Unavailable


@dataclass(frozen=True)
class Journal:
    """What a draft is to become and how far it is.

    Args:
        of: all that the vectors follow from: what it is -> its sha256, or how many there are.
        windows: sha256 of the bytes of each window, in order.
    """

    of: dict[str, str]
    windows: tuple[str, ...] = ()


class Draft:
    """The open draft of a float32 array (N, D); made by `drafted`.

    Args:
        output: where the finished file goes.
        file: the draft, open for reading and writing, and locked.
        journal: of the windows that it holds.
    """

    def __init__(self, output: Path, file: BinaryIO, shape: tuple[int, int], journal: Journal) -> None:
        self.output = output
        self.journal = journal
        self._file = file
        self._shape = shape

    @property
    def rows(self) -> int:
        """How many vectors it holds."""
        return min(len(self.journal.windows) * WINDOW, self._shape[0])

    def append(self, vectors: npt.NDArray[np.float32]) -> None:
        """Write the next window (n, D); it is on the disk when this returns."""
        content = vectors.astype("<f4", copy=False).tobytes()
        self._file.write(content)
        self._flush()
        windows = (*self.journal.windows, hashlib.sha256(content).hexdigest())
        self.journal = dataclasses.replace(self.journal, windows=windows)
        _write(_journal(self.output), self.journal)

    def finish(self) -> None:
        """Put the file in its place; the journal goes."""
        assert self.rows == self._shape[0]
        self._flush()
        os.rename(_part(self.output), self.output)
        sync(self.output.parent)
        _journal(self.output).unlink()

    def _flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())


@contextmanager
def drafted(output: Path, shape: tuple[int, int], of: Mapping[str, str], console: Console) -> Iterator[Draft]:
    """The draft of `output`: the one that was begun, if it is of the same, or a new one.

    Args:
        shape: N and D.
        of: all that the vectors follow from.
        console: is told why a draft that is there is of no use, or only in part.

    Raises:
        Unavailable: another process is writing it.
        DataError: it cannot be written.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with _locked(_part(output)) as file:
            journal = _resumed(output, file, shape, dict(of), console)
            yield Draft(output, file, shape, journal)
    except OSError as error:
        raise DataError(f"{output}: cannot be written: {error.strerror or error}") from None


def _part(output: Path) -> Path:
    return output.with_name(f"{output.name}.part")


def _journal(output: Path) -> Path:
    return output.with_name(f"{output.name}.journal")


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """A file that no other process writes; the lock goes with the process, however that ends."""
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = path.stat().st_ino == os.fstat(file.fileno()).st_ino
        except (BlockingIOError, FileNotFoundError):
            held = False
        if not held:  # or it was, and has just been put in its place
            raise Unavailable(f"{path}: another process is writing it")
        yield file


def _resumed(
    output: Path, file: BinaryIO, shape: tuple[int, int], of: dict[str, str], console: Console
) -> Journal:
    """The journal of what can be kept; the file ends there, and is about to be written on."""
    header = _header(shape)
    found = _read(_journal(output), of, console)
    kept = _intact(file, header, shape, found) if found is not None else ()
    if found is not None and len(kept) < len(found.windows):
        again = f"row {len(kept) * WINDOW:,} on" if kept else "the start"
        console.print(f"{_part(output).name}: not as it was written; encoding again from {again}")
    journal = Journal(of, kept)
    if not kept:
        file.seek(0)
        file.write(header)
    file.truncate(len(header) + min(len(kept) * WINDOW, shape[0]) * shape[1] * 4)
    file.seek(0, os.SEEK_END)
    _write(_journal(output), journal)
    return journal


def _header(shape: tuple[int, int]) -> bytes:
    """What `numpy.save` puts before the vectors."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def _read(path: Path, of: dict[str, str], console: Console) -> Journal | None:
    """The journal at `path`, if it is of the same; None if not."""
    try:
        journal: Journal = parse(parse_json(path.read_bytes()), Journal)
    except FileNotFoundError:
        return None
    except ValueError:
        console.print(f"{path.name}: not a journal; starting over")
        return None
    other = [name for name in of if journal.of.get(name) != of[name]]
    if other:
        console.print(f"{path.name}: was begun with other {', '.join(other)}; starting over")
        return None
    return journal


def _write(path: Path, journal: Journal) -> None:
    write_file(path, json.dumps(dataclasses.asdict(journal)).encode())


def _intact(file: BinaryIO, header: bytes, shape: tuple[int, int], journal: Journal) -> tuple[str, ...]:
    """The windows of a journal that the file holds, up to the first that it does not."""
    file.seek(0)
    if file.read(len(header)) != header:
        return ()
    count, dimension = shape
    kept: list[str] = []
    for n, digest in enumerate(journal.windows):
        rows = max(0, min(WINDOW, count - n * WINDOW))
        content = file.read(rows * dimension * 4)
        if not content or hashlib.sha256(content).hexdigest() != digest:
            break
        kept.append(digest)
    return tuple(kept)
