"""Bundles measured beside each other, on their files, in a process that holds nothing else.

    python -m serving.compare REQUEST.json

Prints one JSON document. What kills this process, such as a graph that ONNX Runtime does not survive,
kills nothing else: standard error says of each step whose it is before it begins.

A request to measure, `{"task": "measure", "bundles": {"challenger": "<folder>", ...}, "k": 10,
"threads": 1, "iterations": 6000, "rounds": 10, "loads": 3}`, is answered with the seconds that each load
took, recall@k of each index as it is served against exact search, and the latency of query towers and
retrievers. A request to encode, `{"task": "encode", "bundle": "<folder>", "arrays": "<folder>"}`, runs the
arrays in `<side>.npz` through the bundle's towers and writes `<side>-vectors.npz` beside them.
"""

import gc
import itertools
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from protos import bundle
from protos.bundle import Manifest
from protos.errors import MissingStage
from protos.features import Arrays, Side
from protos.scores import SCORE_TOLERANCE
from protos.turns import Call
from serving.encoder import Encoder
from serving.index import Index
from serving.query import Query, example_query
from serving.retriever import Retriever
from serving.stages import Wanted
from serving.turns import take_turns

STEP = "step: "  # what a line on standard error begins with that says what comes next
SIDES: tuple[Side, Side] = ("query", "item")

Document = dict[str, Any]


class Step:
    """What this process is at, told before it begins."""

    def __init__(self) -> None:
        self.now: dict[str, str] = {"bundle": "", "step": "reading the request"}

    def __call__(self, name: str, step: str) -> None:
        """Go on to a step with a bundle."""
        self.now = {"bundle": name, "step": step}
        sys.stderr.write(STEP + json.dumps(self.now) + "\n")
        sys.stderr.flush()


def measure(request: Mapping[str, Any], step: Step) -> Document:
    """Load time, recall of the index and latency of some bundles.

    Args:
        request: as above; `threads` is of the query tower in one call.

    Raises:
        BundleError: a bundle does not load.
        MissingStage: a bundle brings no query to measure it on.
    """
    folders = {name: Path(folder) for name, folder in request["bundles"].items()}
    threads, k = request["threads"], request["k"]
    for name, folder in folders.items():  # uncounted, for the first finds the files on the disk
        step(name, "loading")
        Retriever.load(folder, threads)
    seconds: dict[str, list[float]] = {name: [] for name in folders}
    retrievers: dict[str, Retriever] = {}
    for turn in range(request["loads"]):
        for name in _in_turn(folders, turn):
            step(name, "loading")
            retrievers.pop(name, None)
            begun = time.perf_counter()
            retrievers[name] = Retriever.load(folders[name], threads)
            seconds[name].append(time.perf_counter() - begun)
    recalls = {}
    for name, retriever in retrievers.items():
        step(name, "searching its index")
        recalls[name] = recall(retriever, folders[name], k)
    return {
        "load_s": seconds,
        "recall": recalls,
        "latency": _latency(request, folders, retrievers, step),
    }


def recall(retriever: Retriever, folder: Path, k: int) -> list[float]:
    """recall@k of the index as it is served against exact search, for each of the bundle's examples.

    An item whose product is within `SCORE_TOLERANCE` of the k-th counts as found. A query for which no index
    is searched is left out.

    Raises:
        MissingStage: none is left.
    """
    encoded = retriever.encode(_examples(retriever.manifest))
    asked = [n for n, each in enumerate(encoded.asked) if each.basis.is_searched]
    if not asked:
        raise MissingStage(f"{folder}: no example is answered by its index")
    found = retriever.find(encoded, [Wanted(k)] * len(encoded.asked))
    index = Index(folder, retriever.manifest)
    _, exact = index.exact(encoded.vectors[asked], k)
    recalls = []
    for n, best in zip(asked, exact, strict=True):
        products = index.vectors[found[n].rows] @ encoded.vectors[n]
        least = best[-1] - SCORE_TOLERANCE * max(1, abs(best[-1]))
        recalls.append(float((products >= least).sum() / len(best)))
    return recalls


def _latency(
    request: Mapping[str, Any], folders: Mapping[str, Path], retrievers: Mapping[str, Retriever], step: Step
) -> Document:
    """Of query towers and of whole retrievers, one query at a time."""
    queries = _queries(retrievers)
    towers: dict[str, Sequence[Call]] = {}
    wholes: dict[str, Sequence[Call]] = {}
    for name, retriever in retrievers.items():
        step(name, "answering one query at a time")
        encoder = Encoder(folders[name], retriever.manifest, request["threads"])
        prepared = [retriever.prepare(query) for query in queries[name]]
        rows = [[each.values or {}] for each in prepared]
        towers[name] = [_encoding(encoder, encoder.arrays(row)) for row in rows]
        wholes[name] = [_searching(retriever, query, request["k"]) for query in queries[name]]
    found = {}
    gc.collect()
    gc.freeze()
    for what, calls in (("query_tower", towers), ("retriever", wholes)):
        step("", f"timing each {what.replace('_', ' ')}")
        found[what] = take_turns(calls, request["rounds"], request["iterations"])
    return found


def _encoding(encoder: Encoder, arrays: Arrays) -> Call:
    return lambda: encoder.vectors(arrays)


def _searching(retriever: Retriever, query: Query, k: int) -> Call:
    return lambda: retriever.search([query], k)


def _queries(retrievers: Mapping[str, Retriever]) -> dict[str, list[Query]]:
    """What each retriever is asked: all the same, where their towers take the same features."""
    own = {name: _examples(retriever.manifest) for name, retriever in retrievers.items()}
    kinds = [
        {name: spec.kind for name, spec in retriever.manifest.schema.query.items()}
        for retriever in retrievers.values()
    ]
    first = next(iter(own.values()))
    return dict.fromkeys(own, first) if all(each == kinds[0] for each in kinds) else own


def _examples(manifest: Manifest) -> list[Query]:
    if not manifest.examples:
        raise MissingStage(f"bundle {manifest.bundle_version[:12]}: brings no query to measure it on")
    return [example_query(example) for example in manifest.examples]


def _in_turn(names: Mapping[str, Any], turn: int) -> list[str]:
    return sorted(names, reverse=bool(turn % 2))


def encode(request: Mapping[str, Any], step: Step) -> Document:
    """The vectors of some inputs by both towers of a bundle.

    Args:
        request: as above; `<side>.npz` holds `<batch>.<feature>`, `<side>-vectors.npz` will hold `<batch>`.

    Raises:
        BundleDamaged: the bundle or a tower of it is damaged.
    """
    folder, arrays = Path(request["bundle"]), Path(request["arrays"])
    step("query", "verifying the bundle")
    manifest = bundle.read(folder)
    for side in SIDES:
        step(side, "loading the tower")
        encoder = Encoder(folder, manifest, side=side)
        step(side, "encoding records")
        with np.load(arrays / f"{side}.npz", allow_pickle=False) as file:
            inputs = {key: file[key] for key in file.files}
        vectors: dict[str, Any] = {
            batch: encoder.vectors({key.partition(".")[2]: inputs[key] for key in keys})
            for batch, keys in itertools.groupby(inputs, lambda key: key.partition(".")[0])
        }
        np.savez(arrays / f"{side}-vectors.npz", allow_pickle=False, **vectors)
    return {"encoded": list(SIDES)}


TASKS: dict[str, Callable[[Mapping[str, Any], Step], Document]] = {"measure": measure, "encode": encode}


def main(arguments: Sequence[str]) -> NoReturn:
    """Do what a request asks; the exit code is 1 where a bundle did not bear it."""
    step = Step()
    try:
        request = json.loads(Path(arguments[0]).read_bytes())
        document = TASKS[request["task"]](request, step)
    except Exception as error:  # ONNX Runtime's errors share no other base
        document = {"failed": {**step.now, "error": f"{type(error).__name__}: {error}"}}
    sys.stdout.write(json.dumps(document) + "\n")
    sys.exit("failed" in document)


if __name__ == "__main__":
    main(sys.argv[1:])
