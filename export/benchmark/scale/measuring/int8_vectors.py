"""The steps `vectors` and `exact`: millions of clustered vectors as int8 rows, and exact search over them.

Rows are mapped from a file and searched in blocks that fit a processor's cache. A block is converted to
float32 and multiplied with the queries; only products above a query's k-th best so far are processed further.
So nothing is held beside the file but a block and the best rows. Products of such small whole numbers are
exact in float32.
"""

import itertools
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.progress import track

from export.benchmark.scale.measuring import settings
from export.benchmark.scale.measuring.documents import ITEMS, ITEMS_A_TOPIC, QUERIES, draw_topics
from protos.system import memory
from protos.vectors import int8_rows
from train.progress import PROGRESS

GENERATED = 65_536  # vectors that are generated at a time
BLOCK = 8192  # rows that are searched at a time
SPREAD = 0.6  # mean length of a vector's offset from its topic, whose own length is 1
QUERY_COUNT = 96
SECONDS = 30.0  # time limit of each kind of search

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


def vectors(folder: Path, items: int, seed: int) -> dict[str, Any]:
    """Write vectors as int8 rows, queries, and the rows that are nearest to each query in float32."""
    queries = generate(items, seed, QUERIES, 0, QUERY_COUNT)

    def written() -> Iterator[tuple[int, Vectors]]:
        with (folder / settings.CODES).open("wb") as codes, (folder / settings.SCALES).open("wb") as scales:
            starts = range(0, items, GENERATED)
            for number, begin in enumerate(track(starts, "vectors", console=PROGRESS)):
                block = generate(items, seed, ITEMS, number, min(GENERATED, items - begin))
                rows, scale = int8_rows(block)
                codes.write(rows.tobytes())
                scales.write(scale.tobytes())
                yield begin, block @ queries.T

    nearest, _ = best(written(), QUERY_COUNT, settings.K)
    np.save(folder / settings.QUERY_VECTORS, queries)
    np.save(folder / settings.NEAREST, nearest)
    return {"file_bytes": sum((folder / name).stat().st_size for name in (settings.CODES, settings.SCALES))}


def exact(folder: Path, items: int, seed: int) -> dict[str, Any]:
    """Search with single queries and in batches, on one thread and on all, and compare with float32."""
    queries, nearest = np.load(folder / settings.QUERY_VECTORS), np.load(folder / settings.NEAREST)
    before, cores = memory.resident(), os.cpu_count() or 1
    codes = np.asarray(np.memmap(folder / settings.CODES, np.int8, "r", shape=(items, settings.DIMENSION)))
    search = partial(search_int8, codes, np.fromfile(folder / settings.SCALES, np.float32), k=settings.K)
    with PROGRESS.status(f"{items:,} vectors, {len(queries)} queries"):
        found_rows, _ = search(queries, threads=cores)
    same = [len(np.intersect1d(a, b)) / len(b) for a, b in zip(found_rows, nearest, strict=True)]
    found: dict[str, Any] = {
        "k": settings.K,
        "dimension": settings.DIMENSION,
        "queries": len(queries),
        "threads": cores,
        "recall": float(np.mean(same)),
        "before_bytes": before,
        "rss_bytes": memory.resident(),
    }
    for threads, batch in itertools.product(dict.fromkeys((1, cores)), (1, settings.BATCH)):
        name = f"{'one_thread' if threads == 1 else 'all_threads'}_b{batch}"
        with PROGRESS.status(f"timing: batch {batch}, {threads} thread{'s' * (threads > 1)}"):
            found[name] = settings.timed(partial(search, threads=threads), queries, batch, SECONDS)
    return found


def generate(items: int, seed: int, stream: int, number: int, count: int) -> Vectors:
    """Unit vectors (count, D) around as many topics as a catalogue of documents has."""
    topics = max(2, items // ITEMS_A_TOPIC)
    centres = _normal(np.random.default_rng([seed, 0]), topics) / settings.DIMENSION**0.5
    rng = np.random.default_rng([seed, stream, number])
    topic = draw_topics(rng, topics, count)
    found = centres[topic] + _normal(rng, count) * np.float32(SPREAD / settings.DIMENSION**0.5)
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)


def _normal(rng: np.random.Generator, count: int) -> Vectors:
    return rng.standard_normal((count, settings.DIMENSION), np.float32)


def search_int8(
    rows: npt.NDArray[np.int8], scales: Vectors, queries: Vectors, k: int, threads: int = 1
) -> tuple[Rows, Vectors]:
    """The rows with the largest inner products, and the products, (B, k) each, as `best` orders them.

    Args:
        rows: (N, D).
        scales: (N,), factor of each row.
        queries: (B, D).
    """
    columns = np.ascontiguousarray(queries.T)

    def products(begin: int, end: int) -> Iterator[tuple[int, Vectors]]:
        room = np.empty((BLOCK, rows.shape[1]), np.float32)
        for at in range(begin, end, BLOCK):
            stop = min(at + BLOCK, end)
            block = room[: stop - at]
            np.copyto(block, rows[at:stop])
            scores = block @ columns  # (n, B)
            scores *= scales[at:stop, None]
            yield at, scores

    if threads == 1:
        return best(products(0, len(rows)), len(queries), k)
    ends = itertools.pairwise(np.linspace(0, len(rows), threads + 1).astype(int).tolist())
    with ThreadPoolExecutor(threads) as pool:  # numpy releases the interpreter's lock
        parts = list(pool.map(lambda part: best(products(*part), len(queries), k), ends))
    found, scores = (np.concatenate(each, axis=1) for each in zip(*parts, strict=True))
    kept = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(found, kept, axis=1), np.take_along_axis(scores, kept, axis=1)


def best(blocks: Iterable[tuple[int, Vectors]], queries: int, k: int) -> tuple[Rows, Vectors]:
    """The rows with the largest scores, and these, (queries, k) each.

    The best come first, the lower row wins a tie, and -1 fills missing rows.

    Args:
        blocks: the first row of each block, in order, and its scores (n, queries).
    """
    rows: Rows = np.full((queries, k), -1, np.int64)
    scores: Vectors = np.full((queries, k), -np.inf, np.float32)
    for first, block in blocks:
        better = block > scores[:, -1]
        for query in np.flatnonzero(better.any(axis=0)).tolist():
            places = np.flatnonzero(better[:, query])
            if len(places) > 4 * k:  # sorting all of them would take longer than the product
                found = block[places, query]
                places = places[found >= np.partition(found, -k)[-k]]
            candidates = np.concatenate([scores[query], block[places, query]])
            kept = np.argsort(-candidates, kind="stable")[:k]
            rows[query] = np.concatenate([rows[query], places + first])[kept]
            scores[query] = candidates[kept]
    return rows, scores
