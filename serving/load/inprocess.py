"""The bundle at work without a transport, in a process of its own: what the service's parts cost.

    python -m serving.load.inprocess --bundle .cache/bundles/3f2a9c0d1e5b

It reads a batch's size and seconds from each line of its standard input (`32 2.0`), searches for as
long in such batches, and answers with a line of JSON. It ends when its standard input does.
"""

import json
import sys
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from serving import varied
from serving.load import queries
from serving.query import Query
from serving.retriever import Retriever

WARM_UP = 8  # batches


def measure(
    retriever: Retriever, asked: Sequence[Query], k: int, size: int, seconds: float, pause: float = 0.0
) -> dict[str, float]:
    """Search in batches for a while.

    Args:
        retriever: that answers.
        asked: in turn, over and over.
        k: items in an answer.
        size: of a batch.
        seconds: to measure for.
        pause: seconds asleep before each batch, as a server is until the next request comes.

    Returns:
        `qps`, queries a second, and `p50_us`, microseconds a batch, without the pause before it.
    """
    batches = [[asked[(first + n) % len(asked)] for n in range(size)] for first in range(0, len(asked), size)]
    for batch in batches[:WARM_UP]:
        _search(retriever, batch, k)
    took: list[float] = []
    started = now = time.perf_counter()
    while now - started < seconds:
        if pause:
            time.sleep(pause)
            now = time.perf_counter()
        before = now
        _search(retriever, batches[(len(took) + WARM_UP) % len(batches)], k)
        now = time.perf_counter()
        took.append(now - before)
    return {"qps": len(took) * size / (now - started), "p50_us": float(np.median(took)) * 1e6}


def _search(retriever: Retriever, batch: Sequence[Query], k: int) -> None:
    """Search, and read all that the service would send: a hit's fields are looked up when they are read."""
    for answer in retriever.search(batch, k):
        for hit in answer.hits:
            len(hit.fields)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what standard input asks for, `size seconds pause` on each line, until it ends."""
    parser = ArgumentParser(prog="python -m serving.load.inprocess", description="Search without a server.")
    parser.add_argument("--bundle", type=Path, required=True, help="to search in")
    parser.add_argument("--queries", type=Path, help="a file with a query on each line")
    parser.add_argument("--k", type=int, default=10, help="items in an answer (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of queries made from the examples (%(default)s)")
    parsed = parser.parse_args(arguments)
    retriever = Retriever.load(parsed.bundle)
    if parsed.queries:
        asked = queries.from_file(parsed.queries)
    else:
        asked = varied.of_bundle(retriever.manifest, parsed.seed)
    for line in sys.stdin:
        size, seconds, pause = line.split()
        found = measure(retriever, asked, parsed.k, int(size), float(seconds), float(pause))
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
