"""The retriever beside its bare parts, on the same queries, in a process that holds nothing else.

    python -m serving.parts --bundle .cache/bundles/3f2a9c0d1e5b --threads 1 --json
    python -m serving.parts --bundle .cache/bundles/3f2a9c0d1e5b --load

The parts are the very session and the very index that the retriever holds: `session_run` on arrays that
were made before, `bare_search` on vectors that were made before, with the same width, and `pair`, one after
the other in one call, as the retriever has to do them, so that each finds in the processor's caches what the
other has left. `prepare` makes the arrays; `encode` and `nearest` are the retriever's two halves.

All take short turns (`protos/turns.py`), and what single calls took is told
turn by turn, so that whoever asks can tell how sure a ratio is: by the clock, and as this thread's time on a
processor, for where others use the machine, a long call is interrupted more often than the short ones that it
is made of. `--load` tells how long a fresh process takes until a bundle is verified, loaded and warm.
"""

import argparse
import dataclasses
import gc
import json
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from protos import bundle
from protos.beam import graph_width
from protos.errors import MissingStage, TwinspireError
from protos.turns import Call, Effort, take_turns
from serving import varied
from serving.catalogue import Catalogue
from serving.encoder import OUTPUT, Encoder
from serving.index import Index, Vectors
from serving.query import Query
from serving.retriever import Retriever

SEED = 0
MOST_GROUPS = 1024  # different batches
Document = dict[str, Any]


class Bench:
    """A bundle at work, and its parts within reach.

    Args:
        folder: of the bundle.
        threads: of the query tower in one call.
        k: items wanted.

    Raises:
        BundleError: the bundle does not load.
        MissingStage: it brings no query whose answer takes a search.
    """

    def __init__(self, folder: Path, threads: int, k: int) -> None:
        self.manifest = manifest = bundle.read(folder)
        self.encoder = Encoder(folder, manifest, threads)
        self.index = Index(folder, manifest)
        self.retriever = Retriever(manifest, self.encoder, self.index, Catalogue(folder, manifest))
        self.k = k
        self.width = graph_width(
            min(k, manifest.count), manifest.index.ef_search, manifest.count, manifest.index.exact
        )
        self.queries = self._searched(folder)

    def _searched(self, folder: Path) -> list[Query]:
        """Many and varied queries, without those for which the index is not searched.

        In a loop over the bundle's few examples a bare part would find in the processor's caches all that it
        touches; in a service nobody does.
        """
        queries = varied.of_bundle(self.manifest, SEED)
        asked = self.retriever.encode(queries).asked if queries else ()
        kept = [q for q, each in zip(queries, asked, strict=True) if each.basis.is_searched]
        if not kept:
            raise MissingStage(f"{folder}: brings no query whose answer takes a search")
        return kept

    def contenders(self, batch: int) -> dict[str, list[Call]]:
        """The whole and its parts, each on the same batches of queries."""
        groups = [
            [self.queries[(start * batch + n) % len(self.queries)] for n in range(batch)]
            for start in range(min(MOST_GROUPS, -(-len(self.queries) // batch)))
        ]
        arrays = [self._prepare(group) for group in groups]
        vectors = [self._run(each) for each in arrays]
        encoded = [self.retriever.encode(group) for group in groups]
        retriever, k = self.retriever, self.k
        return {
            "retriever": [partial(retriever.search, group, k) for group in groups],
            "session_run": [partial(self._run, each) for each in arrays],
            "bare_search": [partial(self._search, each) for each in vectors],
            "pair": [partial(self._pair, each) for each in arrays],
            "prepare": [partial(self._prepare, group) for group in groups],
            "encode": [partial(retriever.encode, group) for group in groups],
            "nearest": [partial(retriever.nearest, each, k) for each in encoded],
        }

    def _prepare(self, group: Sequence[Query]) -> dict[str, Any]:
        prepared = [self.retriever.prepare(query) for query in group]
        return self.encoder.arrays([each.values or {} for each in prepared])

    def _run(self, arrays: Mapping[str, Any]) -> Vectors:
        vectors: Vectors = self.encoder._session.run([OUTPUT], arrays)[0]
        return vectors

    def _search(self, vectors: Vectors) -> object:
        if self.width is None or self.index._graph is None:  # what is served compares with every item
            scores = vectors @ self.index.vectors.T
            k = min(self.k, self.index.count)
            return np.argpartition(scores, -k, axis=1)[:, -k:]
        return self.index._graph.knn_query(vectors, k=self.width, num_threads=1)

    def _pair(self, arrays: Mapping[str, Any]) -> object:
        return self._search(self._run(arrays))


def measure(folder: Path, threads: int, k: int, batches: Sequence[int], effort: Effort) -> Document:
    """The whole retriever and its parts.

    Returns:
        beside what was measured, `wall_us` and `cpu_us`: batch -> part -> each call, turn by turn.
    """
    bench = Bench(folder, threads, k)
    gc.collect()
    gc.freeze()
    alone = dataclasses.replace(effort, fewest=effort.iterations)
    taken = {str(n): take_turns(bench.contenders(n), alone if n == 1 else effort) for n in batches}

    def told(place: int) -> dict[str, dict[str, list[list[float]]]]:
        return {
            batch: {name: times[place].tolist() for name, times in each.items()}
            for batch, each in taken.items()
        }

    return {
        "bundle_version": bench.manifest.bundle_version,
        "threads": threads,
        "k": k,
        "search": "exact" if bench.width is None else "graph",
        "queries": len(bench.queries),
        "wall_us": told(0),
        "cpu_us": told(1),
    }


def load(folder: Path, threads: int) -> Document:
    """Seconds until a bundle is verified, loaded and warm: from the call, and since this process began."""
    begun = time.perf_counter()
    Retriever.load(folder, threads)
    loaded = time.perf_counter() - begun
    return {"load_s": loaded, "start_s": time.time() - psutil.Process().create_time()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m serving.parts", description="The retriever and its bare parts."
    )
    parser.add_argument("--bundle", type=Path, required=True, help="folder of the bundle")
    parser.add_argument("--threads", type=int, default=1, help="of the query tower in one call (%(default)s)")
    parser.add_argument("--k", type=int, default=10, help="items wanted (%(default)s)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32], help="queries at a time (1 32)")
    parser.add_argument("--iterations", type=int, default=1000, help="calls of each (%(default)s)")
    parser.add_argument("--fewest", type=int, default=60, help="calls made in any case (%(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each batch size (%(default)s)")
    parser.add_argument("--load", action="store_true", help="only load the bundle, and say how long it took")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print what came of it; 1 where the bundle did not bear it."""
    asked = _parser().parse_args(arguments)
    try:
        if asked.load:
            document = load(asked.bundle, asked.threads)
        else:
            effort = Effort(asked.iterations, asked.fewest, asked.seconds)
            document = measure(asked.bundle, asked.threads, asked.k, asked.batches, effort)
    except TwinspireError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write((json.dumps(document) if asked.json else _told(document)) + "\n")
    return 0


def _told(document: Document) -> str:
    """The medians, a line a part, for people."""
    if "load_s" in document:
        return f"loaded in {document['load_s']:.2f} s, {document['start_s']:.2f} s after the process began"
    lines = []
    for batch in document["wall_us"]:
        wall, cpu = (
            {name: float(np.median(turns)) for name, turns in document[clock][batch].items()}
            for clock in ("wall_us", "cpu_us")
        )
        share, own = (each["retriever"] / (each["session_run"] + each["bare_search"]) for each in (wall, cpu))
        lines.append(
            f"batch {batch}: the retriever takes {share:.2f} times its bare parts, {own:.2f} on a processor"
        )
        lines += [f"  {name:12} {wall[name]:10,.1f} us {cpu[name]:10,.1f} on a processor" for name in wall]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
