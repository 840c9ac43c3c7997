"""A `.npy` file that is written in windows, and can be resumed after the writing process was killed.

    vectors.npy.part      the file so far: its header, then the windows
    vectors.npy.journal   identity of the complete file, and the sha256 of each window that is written

A window is synced to disk before the journal lists it. A process that resumes keeps only windows that the
journal lists and the file holds. Windows are written with plain writes, because the pages of a memory map
would count as memory of this process.
"""

import dataclasses
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

from twinspire.export.encoding.records import WINDOW
from twinspire.protos.bundle import write_file
from twinspire.protos.documents import parse_json
from twinspire.protos.errors import DataError, Unavailable
from twinspire.protos.files.draft_file import sync
from twinspire.protos.files.file_lock import try_lock
from twinspire.protos.toml_config import parse


@dataclass(frozen=True)
class Journal:
    """Identity and progress of a file.

    Args:
        of: everything that determines the vectors: name for a message -> sha256, or their shape.
        windows: sha256 of the bytes of each window, in order.
    """

    of: dict[str, str]
    windows: tuple[str, ...] = ()


class ResumableFile:
    """The open file of a float32 array (N, D); created by `open_resumable`.

    Args:
        output: path of the complete file.
        file: the incomplete file, open for reading and writing, and locked.
        journal: of the windows that it holds.
    """

    def __init__(self, output: Path, file: BinaryIO, shape: tuple[int, int], journal: Journal) -> None:
        self.output = output
        self.journal = journal
        self._file = file
        self._shape = shape

    @property
    def rows(self) -> int:
        """The number of vectors written."""
        return min(len(self.journal.windows) * WINDOW, self._shape[0])

    def append(self, vectors: npt.NDArray[np.float32]) -> None:
        """Write and sync the next window (n, D)."""
        content = vectors.astype("<f4", copy=False).tobytes()
        self._file.write(content)
        self._flush()
        windows = (*self.journal.windows, hashlib.sha256(content).hexdigest())
        self.journal = dataclasses.replace(self.journal, windows=windows)
        _write(_journal(self.output), self.journal)

    def finish(self) -> None:
        """Move the complete file to `output` and delete the journal."""
        assert self.rows == self._shape[0]
        self._flush()
        os.rename(_part(self.output), self.output)
        sync(self.output.parent)
        _journal(self.output).unlink()

    def _flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())


@contextmanager
def open_resumable(
    output: Path, shape: tuple[int, int], of: Mapping[str, str], console: Console
) -> Iterator[ResumableFile]:
    """Open the incomplete file of `output`: an existing one if it has the same identity, or a new one.

    Args:
        shape: N and D.
        of: everything that determines the vectors.
        console: receives the reason if an existing file cannot be used, or only in part.

    Raises:
        Unavailable: another process is writing it.
        DataError: it cannot be written.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with _locked(_part(output)) as file:
            journal = _resumed(output, file, shape, dict(of), console)
            yield ResumableFile(output, file, shape, journal)
    except OSError as error:
        raise DataError(f"{output}: cannot be written: {error.strerror or error}") from None


def _part(output: Path) -> Path:
    return output.with_name(f"{output.name}.part")


def _journal(output: Path) -> Path:
    return output.with_name(f"{output.name}.journal")


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """Open and lock a file; the lock is released when the process ends."""
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
        if not try_lock(path, file.fileno()):
            raise Unavailable(f"{path}: another process is writing it")
        yield file


def _resumed(
    output: Path, file: BinaryIO, shape: tuple[int, int], of: dict[str, str], console: Console
) -> Journal:
    """Truncate the file to the windows that can be kept; returns their journal."""
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
    """The header that `numpy.save` writes."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def _read(path: Path, of: dict[str, str], console: Console) -> Journal | None:
    """The journal at `path`; None if it is missing, damaged, or of another identity."""
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
    """The windows of a journal that the file holds intact, up to the first that is damaged or missing."""
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
