"""Millions of clustered vectors, made in blocks and kept as int8; what is nearest is found on the way."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.scale.measuring.documents import ITEMS, ITEMS_A_TOPIC, QUERIES, zipf
from export.scale.measuring.quantised import Best, Vectors
from export.scale.measuring.subject import CODES, DIMENSION, NEAREST, QUERY_VECTORS, SCALES, K
from protos.vectors import int8_rows
from train.command import PROGRESS
from train.progress import progress_bar

BLOCK = 65_536  # vectors that are made at a time
SPREAD = 0.6  # length of what tells a vector from its topic, on average; the topic's own is 1
ASKED = 96  # queries


def vectors(folder: Path, items: int, seed: int) -> dict[str, Any]:
    """Write vectors as int8 rows, queries, and the rows that are nearest to each in float32."""
    queries = made(items, seed, QUERIES, 0, ASKED)
    best = Best(ASKED, K)
    with (
        (folder / CODES).open("wb") as codes,
        (folder / SCALES).open("wb") as scales,
        progress_bar(PROGRESS) as progress,
    ):
        task = progress.add_task("vectors", total=items, note="")
        for begin, block in blocks(items, seed):
            best.see(block @ queries.T, begin)
            whole, scale = int8_rows(block)
            codes.write(whole.tobytes())
            scales.write(scale.tobytes())
            progress.update(task, advance=len(block))
    np.save(folder / QUERY_VECTORS, queries)
    np.save(folder / NEAREST, best.rows)
    return {"file_bytes": sum((folder / name).stat().st_size for name in (CODES, SCALES))}


def blocks(items: int, seed: int) -> Iterator[tuple[int, Vectors]]:
    """All vectors of a catalogue, in order: the first row of a block, and its vectors (n, D)."""
    for number, begin in enumerate(range(0, items, BLOCK)):
        yield begin, made(items, seed, ITEMS, number, min(BLOCK, items - begin))


def made(items: int, seed: int, stream: int, number: int, count: int) -> Vectors:
    """Vectors (count, D) of unit length around the topics of a catalogue of so many items.

    Topics are as many, and as large, as those of documents.
    """
    topics = max(2, items // ITEMS_A_TOPIC)
    centres = _normal(np.random.default_rng([seed, 0]), topics) / DIMENSION**0.5
    rng = np.random.default_rng([seed, stream, number])
    topic = np.searchsorted(zipf(topics), rng.random(count), side="right")
    found = centres[topic] + _normal(rng, count) * np.float32(SPREAD / DIMENSION**0.5)
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)


def _normal(rng: np.random.Generator, count: int) -> npt.NDArray[np.float32]:
    return rng.standard_normal((count, DIMENSION), np.float32)
