"""A swap to another model, and restarts, with many live items and deletes.

Each answer under load is checked by its scores: they are the products of the query's and the items' vectors,
both by the towers of the bundle that answers, which this process computes by itself. An answer that mixes two
bundles, or has a deleted item, has a score that is neither's. Which items are found is not compared: a graph
of live items finds most of the nearest ones, not all, and each worker changes to it by itself.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from protos import bundle
from protos.scores import SCORE_TOLERANCE, Hits
from serving.benchmark import alias, query_generator, swap_load
from serving.benchmark.live.items import ItemMaker, shared_ids
from serving.benchmark.live.writer import CALL_SECONDS, writing
from serving.benchmark.load import Say
from serving.benchmark.services import serve_bundle
from serving.benchmark.swap_load import Schedule, SwapClients, Versions
from serving.benchmark.workload import Workload
from serving.client import RetrievalClient
from serving.retrieval.answer import FusionMode
from serving.retrieval.encoder import Encoder
from serving.retrieval.query import Query
from serving.retrieval.retriever import Retriever
from serving.retrieval.vector_index import shown_scores

K = 10
QUERIES = 1024
BATCH = 64
WORKERS = 2


@dataclass(frozen=True)
class SwapOptions:
    """A swap test.

    Args:
        live: items that are written before.
        deletes: items of the bundle that are deleted before.
        clients: of the load.
        swaps: to and fro.
        seconds: of load.
        restarts: of a service with, and of one without live items.
        seed: of the queries and the items.
    """

    live: int = 10_000
    deletes: int = 2_000
    clients: int = 64
    swaps: int = 4
    seconds: float = 20.0
    restarts: int = 5
    seed: int = 0


def run(
    folders: Sequence[Path], options: SwapOptions, place: Path, say: Say, tick: Callable[[], None]
) -> dict[str, Any]:
    """Run the test.

    Args:
        folders: of two bundles.
        options: of the test.
        place: an empty folder, for the registry and the services' files.
        say: receives what is being done.
        tick: called under load.

    Returns:
        Figures: `failed` requests; `mixed` answers, whose scores are not those of their bundle, or that hold
        another number of items; `deleted_in_answers`;
        `live_found_share`, of the live items those that are first for their own text, the smaller share of
        the two bundles; `restart_added_s`, the seconds by which live items make a start longer.

    Raises:
        Unavailable: a service did not start, or a swap took too long.
        MissingStage: MLflow is not installed, or the bundle's items are no texts.
    """
    manifests = [bundle.read(each) for each in folders]
    names = [each.bundle_version for each in manifests]
    queries = query_generator.of_bundle(manifests[0], options.seed)[:QUERIES]
    deleted = shared_ids(folders, options.deletes)
    gone = set(deleted)
    url = f"sqlite:///{place.absolute()}/items.db"
    with (
        alias.registry(place / "registry", folders) as registry,
        alias.follow(place / "registry", place / "cache", WORKERS, "--catalogue", url) as service,
        writing(service, folders[0], None, options.seed) as process,
    ):
        say(f"writing {options.live:,} live items and {len(deleted):,} deletes")
        texts = process.ask("fill", options.live)["texts"]
        process.ask("delete", deleted)
        found: list[_Found] = []
        expected: list[tuple[list[Hits], int]] = []
        for version in (2, 1):
            say(f"answers of bundle {names[version - 1][:12]} with live items")
            registry.ask(version)
            alias.wait_served(service, WORKERS, names[version - 1])
            expected.insert(0, _expected(service.address, queries, gone))
            found.insert(0, _found(service.address, texts, gone))
        scores = [_Scores(folder, queries, texts, gone) for folder in folders]
        versions = _ScoredVersions(names, [answers for answers, _ in expected], scores)
        clients = SwapClients(
            Workload(queries, K, None, FusionMode.DENSE).searches(), versions, options.clients
        )
        say(f"{options.clients} clients, {options.swaps} swaps")
        done = swap_load.run(
            service.address, clients, registry, Schedule(options.seconds, options.swaps), tick
        )
    return {
        "failed": done.failed.total(),
        "mixed": versions.mixed,
        "mixed_first": versions.first,
        "errors": dict(done.failed),
        "requests": done.requests,
        "swaps": len(done.swaps),
        "deleted_in_answers": sum(count for _, count in expected) + sum(each.deleted for each in found),
        "live_found_share": min(each.first for each in found),
        "live_found_in_10_share": min(each.among for each in found),
        "live_items": options.live,
        "deletes": len(deleted),
        **_restarts(folders[0], place, url, options, say),
    }


class _Scores:
    """The scores of items for queries, by a bundle's own towers; live items included.

    Args:
        folder: of the bundle.
        queries: Q.
        texts: of live items, by id.
        deleted: items that have no score.
    """

    def __init__(
        self, folder: Path, queries: Sequence[Query], texts: Mapping[str, str], deleted: "set[str]"
    ) -> None:
        retriever = Retriever.load(folder)
        self._score = retriever.manifest.score
        self._queries = np.concatenate([retriever.encode([query]).vectors for query in queries])
        self._index, self._find = retriever.index, retriever.catalogue.find
        self._deleted = deleted
        maker, tower = ItemMaker(retriever.manifest), Encoder(folder, retriever.manifest, 1, "item")
        items = [maker.item(*each).features for each in texts.items()]
        self._live = {item_id: row for row, item_id in enumerate(texts)}
        vectors = [
            tower.vectors(tower.arrays(items[start : start + BATCH])) for start in range(0, len(items), BATCH)
        ]
        self._vectors = np.concatenate(vectors)

    def difference(self, number: int, hits: Hits) -> str:
        """What is wrong with an answer: a score, or the number of items; empty if nothing is."""
        for item_id, score in hits:
            row = None if item_id in self._deleted else self._find(item_id)
            if item_id in self._live:
                vector = self._vectors[self._live[item_id]]
            elif row is not None:
                vector = self._index.vectors([row])[0]
            else:
                return f"{item_id} was deleted, or is unknown"
            own = float(shown_scores(np.asarray([vector @ self._queries[number]]), self._score)[0])
            if not abs(score - own) <= SCORE_TOLERANCE * max(1.0, abs(own)):
                return f"{item_id} with score {score:.7g}, expected {own:.7g}"
        return "" if len({item_id for item_id, _ in hits}) == len(hits) == K else f"{len(hits)} items: {hits}"


class _ScoredVersions(Versions):
    """As `Versions`, by scores."""

    def __init__(
        self, names: Sequence[str], expected: Sequence[Sequence[Hits]], scores: Sequence[_Scores]
    ) -> None:
        super().__init__(names, expected)
        self._scores = scores

    def difference(self, place: int, number: int, hits: Hits) -> str:
        """As `Versions.difference`."""
        return self._scores[place].difference(number, hits)


class _Found(NamedTuple):
    """Shares of the live items that are first, and among K, for their own text; deleted items in answers."""

    first: float
    among: float
    deleted: int


def _expected(address: str, queries: Sequence[Query], deleted: "set[str]") -> tuple[list[Hits], int]:
    """The answer to each query, and the deleted items in them."""
    with RetrievalClient(address, CALL_SECONDS) as client:
        answers: list[Hits] = [
            [(hit.id, hit.score) for hit in answer.hits]
            for start in range(0, len(queries), BATCH)
            for answer in client.search_batch(queries[start : start + BATCH], K, fusion=FusionMode.DENSE)
        ]
    return answers, sum(item_id in deleted for answer in answers for item_id, _ in answer)


def _found(address: str, texts: Mapping[str, str], deleted: "set[str]") -> _Found:
    """How live items are found by their own texts."""
    first = among = wrong = 0
    pairs = [*texts.items()]
    with RetrievalClient(address, CALL_SECONDS) as client:
        for start in range(0, len(pairs), BATCH):
            some = pairs[start : start + BATCH]
            for (item_id, _), answer in zip(
                some, client.search_batch([text for _, text in some], K), strict=True
            ):
                ids = [hit.id for hit in answer.hits]
                first += ids[:1] == [item_id]
                among += item_id in ids
                wrong += len(deleted.intersection(ids))
    return _Found(first / len(pairs), among / len(pairs), wrong)


def _restarts(folder: Path, place: Path, url: str, options: SwapOptions, say: Say) -> dict[str, float]:
    """Seconds until a service with a bundle is ready, with and without live items, in turns."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    variables = {"TWINSPIRE_CACHE": str(place / "cache")}
    for number in range(options.restarts + 1):
        say(f"start {number + 1} of {options.restarts + 1}")
        for takes_writes in (True, False):
            begun = time.perf_counter()
            flags = ("--catalogue", url) if takes_writes else ()
            with serve_bundle(folder, None, 1, *flags, environment=variables):
                seconds[takes_writes].append(time.perf_counter() - begun)
    with_live, without = (statistics.median(seconds[each][1:]) for each in (True, False))
    return {
        "start_s": round(without, 3),
        "start_with_live_s": round(with_live, 3),
        "restart_added_s": round(with_live - without, 3),
    }
