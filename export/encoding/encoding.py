"""Encodes records into an array in memory, or into a file that can be resumed after a kill.

Records are encoded a window at a time. Within a window, records of similar length share a batch, which keeps
padding small.
"""

import dataclasses
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twinspire.export.encoding.records import WINDOW, ColumnRecords, Records, Values, rows_of
from twinspire.export.encoding.resumable_file import ResumableFile, open_resumable
from twinspire.export.onnx.runtimes import LARGEST_BATCH, Encode, bounded_batches, onnx_encoder
from twinspire.protos.bundle import ITEM_TOWER, VECTORS, Manifest, record
from twinspire.protos.errors import BundleDamaged, DataError, InvalidInput
from twinspire.protos.features import Arrays, TowerInputs
from twinspire.protos.files.file_lock import exclusive_lock
from twinspire.train.fingerprint import code_fingerprint, fingerprint
from twinspire.train.paths import CACHE
from twinspire.train.progress import PROGRESS, progress_bar

BATCH = 64  # records of a batch, or fewer if these are long
ENCODED = CACHE / "encoded"
KEPT = 4  # folders of an experiment there: its items in each precision of the tower, and as served

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ItemTower:
    """An exported tower.

    Args:
        file: its ONNX file.
        inputs: of the tower.
        dimension: D.
        encode: the loaded file.
    """

    file: Path
    inputs: TowerInputs
    dimension: int
    encode: Encode

    @classmethod
    def of(cls, folder: Path, manifest: Manifest) -> "ItemTower":
        """The item tower of the bundle in a folder, on all cores."""
        path, inputs = folder / ITEM_TOWER, manifest.schema.side("item")
        return cls(path, inputs, manifest.dimension, onnx_encoder(path, threads=0))


@dataclass(frozen=True)
class EncodedFile:
    """Encoded vectors in a file.

    Args:
        path: of the `.npy` file.
        vectors: float32 (N, D), memory-mapped; what is written to it stays in this process.
        resumed_at: number of vectors that an earlier process had written.
        seconds: that the remaining ones took.
    """

    path: Path
    vectors: Vectors
    resumed_at: int
    seconds: float

    @property
    def items_per_s(self) -> float:
        """Items encoded per second, 0 if none were left to encode."""
        encoded = len(self.vectors) - self.resumed_at
        return encoded / self.seconds if encoded else 0.0


def encode_all(
    encode: Encode, inputs: TowerInputs, values: Mapping[str, Sequence[Any]], title: str
) -> Vectors:
    """Encode all records into memory: (N, D), in their order.

    Raises:
        InvalidInput: a value does not fit its feature (the text names its row), or there are no records.
    """
    records = ColumnRecords(values, title)
    if len(records) == 0:
        raise InvalidInput(inputs.side, f"{title}: expected at least one record, got none")
    with _progress(title, len(records)) as advance:
        return np.concatenate([*encoded_windows(encode, inputs, records, advance)])


def encode_into(output: Path, tower: ItemTower, records: Records) -> EncodedFile:
    """Encode all records into the `.npy` file `output`; resumes where an earlier process was stopped.

    The file appears once it is complete. On one processor its bytes are those of `numpy.save` for the result
    of `encode_all`, however often the work was interrupted. Memory is bounded by one window.

    Raises:
        InvalidInput, DataError: a record or the file of records is invalid; the text names the row.
        BundleDamaged: the tower's vectors have another dimension.
        Unavailable: another process is writing the same file.
        KeyboardInterrupt: with a text that says how much is kept.
    """
    shape = (len(records), tower.dimension)
    with open_resumable(output, shape, _identity(tower, records)) as draft:
        resumed_at = draft.rows
        started = time.perf_counter()
        try:
            _write_windows(draft, tower, records)
        except KeyboardInterrupt:
            kept = f"{draft.rows:,} of {len(records):,} are kept"
            raise KeyboardInterrupt(f"interrupted; {kept}, and the same command goes on from there") from None
        seconds = time.perf_counter() - started
        draft.finish()
    return EncodedFile(output, _mapped(output), resumed_at, seconds)


def encode_once(name: str, tower: ItemTower, records: Records) -> EncodedFile:
    """`encode_into` a file of the experiment `name` in the cache, unless the tower has encoded the records.

    The `KEPT` files that were used last stay, so that export, evaluation, gates and refreshes share them.
    Others are removed, and drafts of interrupted encodings, unless a process is encoding there.
    """
    parent = ENCODED / name
    folder = parent / fingerprint(_identity(tower, records))[:16]
    output = folder / VECTORS

    def on_wait() -> None:
        PROGRESS.print(f"another process is encoding {records.name}; waiting for it")

    with exclusive_lock(_lock_of(folder), on_wait=on_wait):
        if output.is_file():
            found = EncodedFile(output, _mapped(output), len(records), 0.0)
        else:
            found = encode_into(output, tower, records)
        os.utime(folder, ns=(time.time_ns(), time.time_ns()))  # finer than the file system's own clock
    with exclusive_lock(parent / ".lock"):
        folders = sorted(
            (each for each in parent.iterdir() if each.is_dir()), key=lambda each: each.stat().st_mtime_ns
        )
        for unused in folders[:-KEPT]:
            with suppress(BlockingIOError), exclusive_lock(_lock_of(unused), busy=BlockingIOError()):
                shutil.rmtree(unused, ignore_errors=True)
    return found


def _lock_of(folder: Path) -> Path:
    """The lock of a folder of `encode_once`. It lies beside the folder, so that it is not removed with it."""
    return folder.with_suffix(".lock")


def encoded_windows(
    encode: Encode,
    inputs: TowerInputs,
    records: Records,
    advance: Callable[[int], None],
    first: int = 0,
) -> Iterator[Vectors]:
    """Encode `WINDOW` records at a time: vectors (n, D), in the order of the records.

    Args:
        advance: called after each batch with its number of records.
        first: record to begin at, a multiple of `WINDOW`, so that batches are the same as from 0.

    Raises:
        InvalidInput: a value does not fit its feature; the text names the record's row, counted from 1.
        DataError: the number of records has changed.
    """
    begin = first
    for values in records.slices(WINDOW, first):
        size = len(next(iter(values.values())))
        encoded = []
        for rows in _batches(inputs, values, size):
            encoded.append((rows, encode(_arrays(inputs, values, rows, begin, records.name))))
            advance(len(rows))
        window = np.empty((size, encoded[0][1].shape[1]), np.float32)
        for rows, vectors in encoded:
            window[rows] = vectors
        yield window
        begin += size
    if begin != len(records):
        raise DataError(f"{records.name}: expected {len(records)} records, got {begin}")


def _batches(inputs: TowerInputs, values: Values, size: int) -> Iterator[Rows]:
    """The rows of a window in batches, from the shortest record to the longest."""
    lengths = np.asarray(inputs.lengths(values, size))
    order = np.argsort(lengths, kind="stable")
    for part in bounded_batches(lengths[order], BATCH):
        yield order[part]


def _arrays(inputs: TowerInputs, values: Values, rows: Rows, begin: int, name: str) -> Arrays:
    try:
        return inputs.to_arrays(rows_of(values, rows))
    except InvalidInput:
        for row in sorted(rows):
            try:
                inputs.to_arrays(rows_of(values, [row]))
            except InvalidInput as error:
                place = f"row {begin + row + 1} of {name}"
                raise InvalidInput(error.field, f"{place}: {error.reason}") from None
        raise


def _write_windows(draft: ResumableFile, tower: ItemTower, records: Records) -> None:
    first = draft.rows
    with _progress(records.name, len(records), first) as advance:
        for window in encoded_windows(tower.encode, tower.inputs, records, advance, first):
            if window.shape[1] != tower.dimension:
                raise BundleDamaged(
                    f"{tower.file}: gives vectors of dimension {window.shape[1]}, expected {tower.dimension}"
                )
            draft.append(window)


def _mapped(path: Path) -> Vectors:
    vectors: Vectors = np.load(path, mmap_mode="c")  # torch warns about arrays that are read-only
    return vectors


def _identity(tower: ItemTower, records: Records) -> dict[str, str]:
    """Everything that determines the vectors: name for a message -> sha256."""
    inputs = tower.inputs
    features = [
        [
            name,
            dataclasses.asdict(spec),
            inputs.known(name) if spec.vocabulary_key(inputs.side, name) else None,
        ]
        for name, spec in inputs.features.items()
    ]
    return {
        "tower": record(tower.file).sha256,
        "features": fingerprint(features, [record(path).sha256 for path in inputs.files]),
        "items": records.identity(),
        "shape": f"{len(records)} x {tower.dimension}",
        "code": fingerprint(code_fingerprint(__name__), WINDOW, BATCH, LARGEST_BATCH),
    }


@contextmanager
def _progress(title: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show a progress bar with items/s; yields the function to call with the number of encoded records."""
    started, encoded = time.perf_counter(), 0
    with progress_bar(PROGRESS, transient=True) as progress:
        task = progress.add_task(title, total=total, completed=done, note="")

        def advance(count: int) -> None:
            nonlocal encoded
            encoded += count
            rate = encoded / (time.perf_counter() - started)
            progress.update(task, advance=count, note=f"{rate:,.0f} items/s")

        yield advance
