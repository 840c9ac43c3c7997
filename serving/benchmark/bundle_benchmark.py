"""Benchmarks of bundles for `export`, in a process that holds nothing else.

    python -m twinspire.serving.benchmark.bundle_benchmark REQUEST.json

Answers one request with one JSON document. A graph that crashes ONNX Runtime ends this process only; the last
step on standard error names the bundle at fault. `threads` are those of the query tower.

    {"task": "measure", "bundles": {"challenger": "<folder>", ...}, "k": 10, "threads": 1, "iterations": 6000,
     "rounds": 10, "loads": 3, "filtered": ["challenger"]}
        seconds of each load, recall@k of each index as served against exact search, the same with filters of
        the bundles in `filtered`, and latency of query towers and retrievers, side by side
    {"task": "load", "bundle": "<folder>", "threads": 1}
        seconds and bytes that this process takes until the bundle is verified, loaded and warm
    {"task": "encode", "bundle": "<folder>", "arrays": "<folder>"}
        runs the arrays in `<side>.npz` through the towers, and writes `<side>-vectors.npz` beside them
    {"task": "score", "bundle": "<folder>", "threads": 1, "records": "<file>"}
        scores of candidates, as a search would show them; each line is {"query": {}, "candidates": []}
"""

import gc
import itertools
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import psutil
from pyroaring import BitMap

from twinspire.protos import bundle
from twinspire.protos.bundle import Manifest
from twinspire.protos.entry_points import BENCHMARK_STEP
from twinspire.protos.errors import InvalidInput, MissingStage
from twinspire.protos.features import SIDES
from twinspire.protos.nearest.search import largest_products
from twinspire.protos.system import memory
from twinspire.protos.system.timing import PASSES, Call, in_rounds, median_of_passes
from twinspire.serving.benchmark import filter_measurement
from twinspire.serving.benchmark.filter_measurement import buckets, measure_quality, rows_found
from twinspire.serving.filters.columns import FilterColumns
from twinspire.serving.filters.compiled import CompiledFilter, PassingRows
from twinspire.serving.filters.expression import AllOf
from twinspire.serving.retrieval.answer import FusionMode
from twinspire.serving.retrieval.encoder import Encoder
from twinspire.serving.retrieval.query import Query, SearchOptions, example_query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.segments.built import BuiltFilter, BuiltSegment
from twinspire.serving.segments.catalogue import Catalogue
from twinspire.serving.segments.vector_index import exact_index

SEED = 0  # of the filters
ALL = AllOf(())  # the rows that pass are given

Document = dict[str, Any]


class Step:
    """Writes each step of this process to standard error before it begins."""

    def __init__(self) -> None:
        self.now: dict[str, str] = {"bundle": "", "step": "reading the request"}

    def __call__(self, name: str, step: str) -> None:
        """Begin a step with a bundle."""
        self.now = {"bundle": name, "step": step}
        sys.stderr.write(BENCHMARK_STEP + json.dumps(self.now) + "\n")
        sys.stderr.flush()


def measure(request: Mapping[str, Any], step: Step) -> Document:
    """Load time, recall of the index and latency of some bundles."""
    folders = {name: Path(folder) for name, folder in request["bundles"].items()}
    retrievers: dict[str, Retriever] = {}

    def load(name: str) -> None:
        step(name, "loading")
        retrievers.pop(name, None)
        retrievers[name] = Retriever.load(folders[name], request["threads"])

    seconds = in_rounds({name: partial(load, name) for name in folders}, request["loads"])
    retrievers = dict(sorted(retrievers.items()))  # not in the order of the last round
    recalls, filtered = {}, {}
    for name, retriever in retrievers.items():
        step(name, "searching its index")
        recalls[name] = recall(retriever, local_segment(retriever, folders[name]), request["k"])
    for name in request.get("filtered", ()):
        retriever = retrievers[name]
        if retriever.manifest.filters:
            step(name, "searching with filters")
            items = local_segment(retriever, folders[name])
            made = buckets(retriever, items, _examples(retriever.manifest), SEED)
            filtered[name] = [measure_quality(retriever, items, bucket, request["k"]) for bucket in made]
    latency = _latency(request, folders, retrievers, step)
    return {"load_s": seconds, "recall": recalls, "filtered": filtered, "latency": latency}


def local_segment(retriever: Retriever, folder: Path) -> BuiltSegment:
    """The items of a bundle in this process, also where another server has those of the retriever."""
    if not (manifest := retriever.manifest).is_remote:
        return retriever.built
    columns = FilterColumns.load(folder, manifest)
    return BuiltSegment(manifest, exact_index(folder, manifest), Catalogue(folder, manifest), columns)


def recall(retriever: Retriever, items: BuiltSegment, k: int) -> list[float]:
    """recall@k of the index as served against exact search, for each of the bundle's examples.

    Queries that are answered without the index are left out.
    """
    encoded = retriever.encode(_examples(retriever.manifest))
    searched = [n for n, each in enumerate(encoded.contexts) if each.basis.is_searched]
    if not searched:
        version = retriever.manifest.bundle_version[:12]
        raise MissingStage(f"bundle {version}: no example is answered by its index")
    options = SearchOptions(k, fusion=FusionMode.DENSE)  # exact search knows the vectors alone
    found = retriever.find(encoded, [options] * len(encoded.contexts))
    _, exact = filter_measurement.exact(items.index, encoded.vectors[searched], k)
    return [
        filter_measurement.recall(
            largest_products(items.vectors(rows_found(found[n], items)), encoded.vectors[n]), best
        )
        for n, best in zip(searched, exact, strict=True)
    ]


def _latency(
    request: Mapping[str, Any], folders: Mapping[str, Path], retrievers: Mapping[str, Retriever], step: Step
) -> Document:
    """Latency of query towers and of retrievers, one query at a time.

    All get the same queries where their towers take the same features. There are `p50_us` and `p99_us` of
    each round, and the number of `queries` in all rounds.
    """
    examples = {name: _examples(retriever.manifest) for name, retriever in retrievers.items()}
    specs = (each.manifest.schema.query.items() for each in retrievers.values())
    kinds = [{name: spec.kind for name, spec in each} for each in specs]
    if all(each == kinds[0] for each in kinds):
        examples = dict.fromkeys(examples, next(iter(examples.values())))
    calls: dict[str, dict[str, Sequence[Call]]] = {"query_tower": {}, "retriever": {}}
    for name, retriever in retrievers.items():
        step(name, "answering one query at a time")
        encoder = Encoder(folders[name], retriever.manifest, request["threads"])
        rows = [[retriever.prepare(query).values or {}] for query in examples[name]]
        calls["query_tower"][name] = [partial(encoder.vectors, encoder.arrays(row)) for row in rows]
        searches = [
            partial(retriever.search, [query], request["k"], exclude_history=False)
            for query in examples[name]
        ]
        calls["retriever"][name] = searches
    found: Document = {}
    gc.collect()
    gc.freeze()
    queries = -(-request["iterations"] // (request["rounds"] * PASSES))
    for what, own in calls.items():
        step("", f"timing each {what.replace('_', ' ')}")
        found[what] = {}
        for name, taken in median_of_passes(own, request["rounds"], queries).items():  # (rounds, queries)
            found[what][name] = {
                "p50_us": np.percentile(taken, 50, axis=1).tolist(),
                "p99_us": np.percentile(taken, 99, axis=1).tolist(),
                "queries": taken.size,
            }
    return found


def _examples(manifest: Manifest) -> list[Query]:
    if not manifest.examples:
        raise MissingStage(f"bundle {manifest.bundle_version[:12]}: has no example query to measure it with")
    return [example_query(example) for example in manifest.examples]


def load(request: Mapping[str, Any], step: Step) -> Document:
    """How long loading takes, and memory.

    Returns:
        `load_s`, seconds of loading; `start_s`, seconds since the process started; `before_bytes`, resident
        memory before loading; `rss_bytes`, `pss_bytes` and `peak_bytes` after it.
    """
    step("", "loading")
    before, begun = memory.resident(), time.perf_counter()
    retriever = Retriever.load(Path(request["bundle"]), request["threads"])
    found = {
        "load_s": time.perf_counter() - begun,
        "start_s": time.time() - psutil.Process().create_time(),
        "before_bytes": before,
        "rss_bytes": memory.resident(),
        "pss_bytes": memory.proportional(),
        "peak_bytes": memory.peak(),
    }
    del retriever  # its memory has been measured
    return found


def encode(request: Mapping[str, Any], step: Step) -> Document:
    """Encode the arrays `<batch>.<feature>` of `<side>.npz`, as `<batch>` of `<side>-vectors.npz`."""
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


def score(request: Mapping[str, Any], step: Step) -> Document:
    """Scores of the candidates of logged queries, each as a search among them alone would show it.

    Returns:
        `scores`, a list for each record, with None for an item that the bundle does not hold; None for a
        record whose query does not fit the bundle, and `why` says so of the first of them.
    """
    step("", "loading")
    retriever = Retriever.load(Path(request["bundle"]), request["threads"])
    if retriever.manifest.is_remote:
        raise MissingStage("candidates are scored by bundles whose index is in memory alone")
    step("", "scoring candidates")
    found: list[list[float | None] | None] = []
    why = ""
    with Path(request["records"]).open() as lines:
        for line in lines:
            record = json.loads(line)
            try:
                found.append(_candidate_scores(retriever, record["query"], record["candidates"]))
            except InvalidInput as error:
                why = why or str(error)
                found.append(None)
    return {"scores": found, "why": why}


def _candidate_scores(
    retriever: Retriever, values: Mapping[str, Any], candidates: Sequence[str]
) -> list[float | None]:
    if "item_id" in values:
        query = Query(item_id=values["item_id"])
    else:
        lacking = [name for name in retriever.query_form.texts if name not in values]
        if lacking:  # an empty text is in a log with texts
            raise InvalidInput(f"query.{lacking[0]}", "the text is missing from the served log")
        query = example_query(values)
    encoded = retriever.encode([query], ["query"])
    rows = [retriever.items.find(each) for each in candidates]
    known = BitMap([row for row in rows if row is not None])
    built = retriever.built
    passing = CompiledFilter(ALL, BuiltFilter(built, PassingRows(known, built.count)))
    (result,) = retriever.find(encoded, [SearchOptions(max(1, len(known)), filter=passing)])
    scores = dict(zip(result.rows, result.scores, strict=True))
    return [None if row is None else scores.get(row) for row in rows]


TASKS: dict[str, Callable[[Mapping[str, Any], Step], Document]] = {
    "measure": measure,
    "load": load,
    "encode": encode,
    "score": score,
}


def main(arguments: Sequence[str]) -> NoReturn:
    """Answer a request; the exit code is 1 where a bundle fails."""
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
