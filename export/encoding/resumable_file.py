"""A `.npy` file that is written in windows, and can be resumed after the writing process was killed.

    vectors.npy.part      the file so far: its header, then the windows
    vectors.npy.journal   identity of the complete file, and the number of windows that are written

A window is synced to disk before the journal counts it. Windows are written with plain writes, because the
pages of a memory map would count as memory of this process.
"""

import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from twinspire.export.encoding.records import WINDOW
from twinspire.protos.bundle import write_file
from twinspire.protos.documents import parse_json
from twinspire.protos.errors import DataError, Unavailable
from twinspire.protos.files.draft_file import sync
from twinspire.protos.files.file_lock import try_lock
from twinspire.train.progress import PROGRESS


class ResumableFile:
    """The open file of a float32 array (N, D); created by `open_resumable`.

    Args:
        output: path of the complete file.
        file: the incomplete file, open for reading and writing, and locked.
        shape: N and D.
        of: everything that determines the vectors.
        windows: number of windows that the file holds.
    """

    def __init__(
        self, output: Path, file: BinaryIO, shape: tuple[int, int], of: Mapping[str, str], windows: int
    ) -> None:
        self.output, self._file, self._shape, self._of, self._windows = output, file, shape, of, windows
        file.seek(0)
        file.write(_header(shape))
        file.truncate(file.tell() + self.rows * shape[1] * 4)
        file.seek(0, os.SEEK_END)
        self._write_journal()

    @property
    def rows(self) -> int:
        """The number of vectors written."""
        return min(self._windows * WINDOW, self._shape[0])

    def append(self, vectors: npt.NDArray[np.float32]) -> None:
        """Write and sync the next window (n, D)."""
        self._file.write(vectors.astype("<f4", copy=False).tobytes())
        self._flush()
        self._windows += 1
        self._write_journal()

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

    def _write_journal(self) -> None:
        content = {"of": self._of, "windows": self._windows}
        write_file(_journal(self.output), json.dumps(content).encode())


@contextmanager
def open_resumable(output: Path, shape: tuple[int, int], of: Mapping[str, str]) -> Iterator[ResumableFile]:
    """Open the incomplete file of `output`: an existing one if it has the same identity, or a new one.

    Args:
        shape: N and D.
        of: everything that determines the vectors: name for a message -> sha256, or their shape.

    Raises:
        Unavailable: another process is writing it.
        DataError: it cannot be written.
    """
    part = _part(output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
            if not try_lock(part, file.fileno()):
                raise Unavailable(f"{part}: another process is writing it")
            held = max(0, part.stat().st_size - len(_header(shape))) // (WINDOW * shape[1] * 4)
            windows = min(held, _windows(_journal(output), of))
            yield ResumableFile(output, file, shape, of, windows)
    except OSError as error:
        raise DataError(f"{output}: cannot be written: {error.strerror or error}") from None


def _header(shape: tuple[int, int]) -> bytes:
    """The header that `numpy.save` writes."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def _part(output: Path) -> Path:
    return output.with_name(f"{output.name}.part")


def _journal(output: Path) -> Path:
    return output.with_name(f"{output.name}.journal")


def _windows(path: Path, of: Mapping[str, str]) -> int:
    """The number of windows by the journal at `path`; 0 if it is missing, damaged, or of another identity."""
    try:
        journal = parse_json(path.read_bytes())
        other = [name for name in of if journal["of"].get(name) != of[name]]
        windows = int(journal["windows"])
    except FileNotFoundError:
        return 0
    except (ValueError, TypeError, KeyError, AttributeError):
        PROGRESS.print(f"{path.name}: not a journal; starting over")
        return 0
    if other:
        PROGRESS.print(f"{path.name}: was begun with other {', '.join(other)}; starting over")
        return 0
    return windows
