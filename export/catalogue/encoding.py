"""The two ways to encode: into an array in memory, or into a file that survives a kill."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from export.backends import Encode
from export.catalogue.draft import Draft, drafted
from export.catalogue.records import WINDOW, ColumnRecords, Records
from export.catalogue.windows import BATCH, Vectors, encoded_windows
from protos.bundle import VECTORS, record
from protos.errors import BundleDamaged, InvalidInput
from protos.features import TowerInputs, vocabulary_of
from train.fingerprint import fingerprint, program
from train.progress import progress_bar


@dataclass(frozen=True)
class ItemTower:
    """A tower that has been exported.

    Args:
        file: its ONNX file.
        inputs: what it takes.
        dimension: D.
        encode: the file, loaded.
    """

    file: Path
    inputs: TowerInputs
    dimension: int
    encode: Encode


@dataclass(frozen=True)
class Streamed:
    """Vectors in a file.

    Args:
        path: of the `.npy` file.
        vectors: float32 (N, D), mapped from the file, read only.
        resumed_at: how many of them an earlier process had written.
        seconds: that the others took.
    """

    path: Path
    vectors: Vectors
    resumed_at: int
    seconds: float

    @property
    def items_per_s(self) -> float:
        """How many were encoded in a second, 0 if none were left to encode."""
        encoded = len(self.vectors) - self.resumed_at
        return encoded / self.seconds if encoded else 0.0


def encode_all(
    encode: Encode,
    inputs: TowerInputs,
    values: Mapping[str, Sequence[Any]],
    console: Console,
    title: str,
) -> Vectors:
    """Vectors (N, D) of all records, in their order and in memory.

    Raises:
        InvalidInput: a value does not fit its feature, the text names its row; or there are no records.
    """
    records = ColumnRecords(values, title)
    if len(records) == 0:
        raise InvalidInput(inputs.side, f"{title}: expected at least one record, got none")
    vectors: Vectors | None = None
    with _progress(console, title, len(records)) as advance:
        for n, window in enumerate(encoded_windows(encode, inputs, records, advance)):
            if vectors is None:
                vectors = np.empty((len(records), window.shape[1]), np.float32)
            vectors[n * WINDOW : n * WINDOW + len(window)] = window
    assert vectors is not None
    return vectors


def encode_into(output: Path, tower: ItemTower, records: Records, console: Console, title: str) -> Streamed:
    """Encode all records into the `.npy` file `output`, going on where an earlier process was ended.

    The file is there when it is complete, and not before. On one processor its bytes are those that
    `numpy.save` makes of what `encode_all` gives, however often the work was interrupted. Memory is bounded
    by a window.

    Raises:
        InvalidInput, DataError: a record, or the file of them, is at fault; the text names the row.
        BundleDamaged: the tower gives vectors of another dimension.
        Unavailable: another process is writing the same file.
        KeyboardInterrupt: as it came, saying that nothing is lost.
    """
    shape = (len(records), tower.dimension)
    with drafted(output, shape, _follows_from(tower, records), console) as draft:
        resumed_at = draft.rows
        started = time.perf_counter()
        try:
            _write_windows(draft, tower, records, console, title)
        except KeyboardInterrupt:
            kept = f"{draft.rows:,} of {len(records):,} are kept"
            raise KeyboardInterrupt(f"interrupted; {kept}, and the same command goes on from there") from None
        seconds = time.perf_counter() - started
        draft.finish()
    return Streamed(output, _mapped(output), resumed_at, seconds)


def encode_once(parent: Path, tower: ItemTower, records: Records, console: Console, title: str) -> Streamed:
    """`encode_into` a file in a folder of its own in `parent`, named after all that the vectors follow from.

    A file that is there already is taken as it is. Whoever needs it no longer removes its folder.
    """
    output = parent / fingerprint(_follows_from(tower, records))[:16] / VECTORS
    if output.is_file():
        return Streamed(output, _mapped(output), len(records), 0.0)
    return encode_into(output, tower, records, console, title)


def _write_windows(draft: Draft, tower: ItemTower, records: Records, console: Console, title: str) -> None:
    first = draft.rows
    with _progress(console, title, len(records), first) as advance:
        for window in encoded_windows(tower.encode, tower.inputs, records, advance, first):
            if window.shape[1] != tower.dimension:
                raise BundleDamaged(
                    f"{tower.file}: gives vectors of dimension {window.shape[1]}, expected {tower.dimension}"
                )
            draft.append(window)


def _mapped(path: Path) -> Vectors:
    vectors: Vectors = np.load(path, mmap_mode="r")
    return vectors


def _follows_from(tower: ItemTower, records: Records) -> dict[str, str]:
    """What it is -> its sha256, each as an error would call it."""
    inputs = tower.inputs
    features = [
        [
            name,
            dataclasses.asdict(spec),
            inputs.known(name) if vocabulary_of(inputs.side, name, spec) else None,
        ]
        for name, spec in inputs.features.items()
    ]
    return {
        "tower": record(tower.file).sha256,
        "features": fingerprint(features),
        "items": records.identity(),
        "shape": f"{len(records)} x {tower.dimension}",
        "program": fingerprint(program(__name__), WINDOW, BATCH),
    }


@contextmanager
def _progress(console: Console, title: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """A bar with items/s; gives what is to be called with the number of records that are done."""
    started, encoded = time.perf_counter(), 0
    with progress_bar(console) as progress:
        task = progress.add_task(title, total=total, completed=done, note="")

        def advance(count: int) -> None:
            nonlocal encoded
            encoded += count
            rate = encoded / (time.perf_counter() - started)
            progress.update(task, advance=count, note=f"{rate:,.0f} items/s")

        yield advance
