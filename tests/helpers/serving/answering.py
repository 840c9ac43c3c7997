"""A bundle's answers in a process of its own, in batches of several sizes, through its graph and exactly.

    python -m tests.helpers.serving.answering FOLDER...

Prints one JSON document: `kernels` that OpenBLAS has taken, and the `answers` of each folder.
"""

import json
import sys
from pathlib import Path

import threadpoolctl  # type: ignore[import-untyped]

from tests.helpers import query_generator
from tests.helpers.answers import hits_of
from tests.helpers.scores import Hits
from twinspire.serving.retrieval.retriever import Retriever

QUERIES = 33
BATCHES = (1, 2, 7, 33)
K = 10
Answers = dict[str, dict[str, list[Hits]]]


def answers(folder: Path, threads: int = 1) -> Answers:
    """Number of items wanted -> size of a batch -> the answers to some queries.

    Args:
        folder: of a bundle.
        threads: of the query tower.
    """
    retriever = Retriever.load(folder, threads)
    queries = query_generator.of_bundle(retriever.manifest, seed=0, max_queries=QUERIES)
    found: Answers = {}
    for k in (K, retriever.manifest.count):  # for all items, each of them is compared with the query
        for size in BATCHES:
            some = found.setdefault(str(k), {}).setdefault(str(size), [])
            for at in range(0, len(queries), size):
                some += map(hits_of, retriever.search(queries[at : at + size], k))
    return found


def main() -> None:
    """Answer, with one thread for the first bundle and two for the second, and print."""
    kernels = [each.get("architecture", "") for each in threadpoolctl.threadpool_info()]
    found = [answers(Path(folder), 1 + n % 2) for n, folder in enumerate(sys.argv[1:])]
    sys.stdout.write(json.dumps({"kernels": kernels, "answers": found}))


if __name__ == "__main__":
    main()
