"""A swap to another model with many live items and deletes.

Each answer under load is checked by its scores: they are the products of the query's and the items' vectors,
both by the towers of the bundle that answers, which this process computes by itself. An answer that mixes two
bundles, or has a deleted item, has a score that is neither's. Which items are found is not compared: a graph
of live items finds most of the nearest ones, not all, and each worker changes to it by itself.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.helpers import query_generator
from tests.helpers.scores import Hits
from tests.load import alias, measure_swap
from tests.load.live.items import CALL_SECONDS, ItemMaker, shared_ids, writing
from tests.load.load import Say
from tests.load.measure_swap import Schedule, SwapClients, Versions
from tests.load.workload import Workload
from twinspire.protos import bundle
from twinspire.protos.nearest.scores import SCORE_TOLERANCE
from twinspire.protos.nearest.search import largest_products
from twinspire.serving.client import RetrievalClient
from twinspire.serving.retrieval.answer import FusionMode
from twinspire.serving.retrieval.encoder import Encoder
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.segments.vector_index import shown_scores

K = 10
QUERIES = 1024
BATCH = 64
WORKERS = 2


@dataclass(frozen=True)
class SwapOptions:
    """A swap test."""

    live: int = 10_000  # items that are written before
    deletes: int = 2_000  # items of the bundle that are deleted before
    clients: int = 64  # of the load
    swaps: int = 4  # to and fro
    seconds: float = 20.0  # of load
    seed: int = 0  # of the queries and the items


def run(
    folders: Sequence[Path], options: SwapOptions, place: Path, say: Say, tick: Callable[[], None]
) -> dict[str, Any]:
    """Run the test with two bundles; `place` is an empty folder, for the registry and the services' files.

    Returns:
        Figures: `failed` requests; `mixed` answers, whose scores are not those of their bundle, or that hold
        another number of items; `deleted_in_answers`; `live_found_share`, of the live items those that are
        first for their own text, the smaller share of the two bundles.
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
        texts = process.ask("fill", options.live, deleted)["texts"]
        deleted_seen, first, among = 0, list[float](), list[float]()
        for version, name in ((2, names[1]), (1, names[0])):
            say(f"answers of bundle {name[:12]} with live items")
            registry.ask(version)
            alias.wait_served(service, WORKERS, name)
            found = _searched(service.address, [*texts.values()])
            answers = [*_searched(service.address, queries, FusionMode.DENSE), *found]
            deleted_seen += sum(item_id in gone for ids in answers for item_id in ids)
            first.append(np.mean([ids[:1] == [own] for own, ids in zip(texts, found, strict=True)]).item())
            among.append(np.mean([own in ids for own, ids in zip(texts, found, strict=True)]).item())
        versions = Versions(names, [_Scores(folder, queries, texts, gone).difference for folder in folders])
        requests = Workload(queries, K, None, FusionMode.DENSE).searches()
        clients = SwapClients(requests, versions, options.clients)
        say(f"{options.clients} clients, {options.swaps} swaps")
        schedule = Schedule(options.seconds, options.swaps)
        done = measure_swap.run(service.address, clients, registry, schedule, tick)
    return {
        "failed": done.failed.total(),
        "mixed": versions.mixed,
        "mixed_first": versions.first,
        "errors": dict(done.failed),
        "requests": done.requests,
        "swaps": len(done.swaps),
        "deleted_in_answers": deleted_seen,
        "live_found_share": min(first),
        "live_found_in_10_share": min(among),
        "live_items": options.live,
        "deletes": len(deleted),
    }


class _Scores:
    """The scores of items for queries, by a bundle's own towers.

    `texts` are those of live items, by id; `deleted` items have no score.
    """

    def __init__(
        self, folder: Path, queries: Sequence[Query], texts: Mapping[str, str], deleted: "set[str]"
    ) -> None:
        retriever = Retriever.load(folder)
        self._score = retriever.manifest.score
        self._queries = np.concatenate([retriever.encode([query]).vectors for query in queries])
        self._index, self._find = retriever.built.index, retriever.items.find
        self._deleted = deleted
        maker, tower = ItemMaker(retriever.manifest), Encoder(folder, retriever.manifest, 1, "item")
        items = [maker.item(*each).features for each in texts.items()]
        self._live = {item_id: row for row, item_id in enumerate(texts)}
        batches = (items[start : start + BATCH] for start in range(0, len(items), BATCH))
        self._vectors = np.concatenate([tower.vectors(tower.arrays(each)) for each in batches])

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
            own = float(shown_scores(largest_products(vector[None], self._queries[number]), self._score)[0])
            if not abs(score - own) <= SCORE_TOLERANCE * max(1.0, abs(own)):
                return f"{item_id} with score {score:.7g}, expected {own:.7g}"
        return "" if len({item_id for item_id, _ in hits}) == len(hits) == K else f"{len(hits)} items: {hits}"


def _searched(
    address: str, queries: Sequence[Query | str], fusion: FusionMode = FusionMode.DEFAULT
) -> list[list[str]]:
    """Ids of the items that a service finds for each query."""
    with RetrievalClient(address, CALL_SECONDS) as client:
        return [
            [hit.id for hit in answer.hits]
            for start in range(0, len(queries), BATCH)
            for answer in client.search_batch(queries[start : start + BATCH], K, fusion=fusion)
        ]
