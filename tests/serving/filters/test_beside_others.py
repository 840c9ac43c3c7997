"""Filters beside histories, popular answers, canaries, shadows and metrics."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.answers import hits_of
from tests.helpers.filter_oracle import passes
from tests.helpers.ports import held_port
from tests.helpers.scores import difference
from tests.helpers.serving.loopback import client_of
from tests.helpers.serving.scraping import Scrape
from tests.helpers.serving.shadowing import Champion, Scene, asked
from tests.helpers.tiny import (
    FILTERS,
    filter_values,
    item_ids,
    item_names,
    popularity,
    tiny_bundle,
    watched_bundle,
)
from tests.helpers.tiny_towers import TinyTower
from twinspire.protos import bundle
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.errors import InvalidInput
from twinspire.serving.client import RetrievalClient, where
from twinspire.serving.filters.expression import Filter
from twinspire.serving.filters.plan import Plan
from twinspire.serving.retrieval.answer import Basis
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.wire.filter_converters import filter_to_wire

ITEMS = 300
VALUES = dict(zip(item_ids(ITEMS), filter_values(ITEMS), strict=True))
NODE = (where.price < 20) | (where.section == "section 1")
EXPECTED = {item for item, values in VALUES.items() if passes(NODE, values)}


@pytest.fixture(scope="module")
def watching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RetrievalClient]:
    """A client of a server whose queries are histories."""
    folder = watched_bundle(tmp_path_factory.mktemp("watched"), ITEMS, filters=FILTERS)
    with client_of(folder) as client:
        client.wait_ready()
        yield client


def test_a_history_is_left_out_of_the_items_that_pass(watching: RetrievalClient) -> None:
    history = (*sorted(EXPECTED)[:20], "nonsense")
    query = Query(history=history)
    answer = watching.search(query, k=ITEMS, exclude_history=True, filter=NODE)
    assert {hit.id for hit in answer.hits} == EXPECTED - set(history)
    few = watching.search(query, k=7, exclude_history=True, filter=NODE)
    assert [hit.id for hit in few.hits] == [hit.id for hit in answer.hits[:7]]


def test_an_item_that_is_a_query_is_compared_with_those_that_pass(watching: RetrievalClient) -> None:
    answer = watching.search(Query(item_id=min(EXPECTED)), k=ITEMS, filter=NODE)
    assert {hit.id for hit in answer.hits} == EXPECTED - {min(EXPECTED)}
    assert answer.plan is Plan.EXACT


def test_the_most_popular_items_that_pass_answer_an_unknown_user(watching: RetrievalClient) -> None:
    answer = watching.search(Query(history=("nonsense",)), k=12, exclude=["item-006"], filter=NODE)
    assert (answer.basis, answer.plan) == (Basis.POPULAR, Plan.POPULAR)
    shares = dict(zip(item_ids(ITEMS), popularity(ITEMS), strict=True))
    best = sorted(EXPECTED - {"item-006"}, key=lambda item: (-shares[item], item))
    assert [hit.id for hit in answer.hits] == best[:12]


def test_no_popular_item_passes(watching: RetrievalClient) -> None:
    answer = watching.search(Query(history=("nonsense",)), filter=where.price > 1000)
    assert (answer.hits, answer.basis, answer.plan) == ((), Basis.POPULAR, Plan.EMPTY)


def test_queries_of_one_batch_may_have_different_bases(watching: RetrievalClient) -> None:
    queries = [Query(history=("item-001",)), Query(history=("nonsense",)), Query(item_id="item-005")]
    answers = watching.search_batch(queries, k=ITEMS, filter=NODE)
    assert [answer.plan for answer in answers] == [Plan.EXACT, Plan.POPULAR, Plan.EXACT]
    assert [{hit.id for hit in answer.hits} for answer in answers] == [
        EXPECTED,
        EXPECTED,
        EXPECTED - {"item-005"},
    ]


def test_requests_with_different_filters_share_a_batch(filtered_retriever: Retriever) -> None:
    nodes: list[Filter | None] = [NODE, None, where.price < 3, ~NODE, None]
    texts = item_names(5)
    encoded = filtered_retriever.encode([Query(text) for text in texts])
    compiled = [None if node is None else filtered_retriever.filters.compile(node) for node in nodes]
    options = [filtered_retriever.search_options(9, compiled=each) for each in compiled]
    together = filtered_retriever.find(encoded, options)
    for text, node, found in zip(texts, nodes, together, strict=True):
        (alone,) = filtered_retriever.search([Query(text)], 9, filter=node)
        ids = [filtered_retriever.items.item_id(row) for row in found.rows]
        assert difference(hits_of(alone), [*zip(ids, found.scores, strict=True)]) == ""
        assert found.plan is alone.plan


def test_a_shadow_searches_with_the_filter_of_the_request(filtered: Path, tmp_path: Path) -> None:
    champion, scene = Champion(filtered), Scene()
    equal = tiny_bundle(tmp_path, filters=FILTERS, report='{"as": "good"}\n')
    scene.serve(champion.version)
    scene.challenge(equal, bundle.read(equal).bundle_version)
    scene.shadow.step(0)
    requests = asked(*item_names(20))
    for request in requests:
        request.filter.CopyFrom(filter_to_wire(NODE))
    scene.offer(champion, *requests)
    note = scene.note()
    scene.channel.close()
    assert (note["queries"], note["errors"], note["overlap"]) == (20, 0, 20.0)


def test_a_shadow_without_the_field_counts_an_error(filtered: Path, plain: Path) -> None:
    champion, scene = Champion(filtered), Scene()
    scene.serve(champion.version)
    scene.challenge(plain, bundle.read(plain).bundle_version)
    scene.shadow.step(0)
    (request,) = asked("bavuti")
    request.filter.CopyFrom(filter_to_wire(NODE))
    scene.offer(champion, request)
    note = scene.note()
    scene.channel.close()
    assert (note["queries"], note["errors"]) == (1, 1)


def test_plans_are_counted(start_server: Callable[..., Any], filtered: Path) -> None:
    with held_port() as port:
        _, address = start_server("--bundle", str(filtered), "--metrics-port", str(port), "--workers", "1")
        with RetrievalClient(address) as client:
            client.wait_ready()
            client.search("bavuti")
            client.search_batch(["bavuti", "kelimo"], filter=NODE)
            client.search("bavuti", filter=where.price > 1000)
            with pytest.raises(InvalidInput):
                client.search("bavuti", filter=where.nothing > 1000)
        scrape = Scrape(port)
        assert scrape.get("filter_plans_total", plan="exact") == 2
        assert scrape.get("filter_plans_total", plan="empty") == 1
        assert scrape.get("filter_plans_total", plan="graph") == 0


def test_a_bundle_of_exact_search_compares_those_that_pass(tmp_path: Path) -> None:
    index = bundle.IndexParameters(m=8, ef_construction=64, ef_search=64, exact=True)
    folder = tiny_bundle(tmp_path, ITEMS, TinyTower(), filters=FILTERS, index=index)
    (answer,) = Retriever.load(folder).search([Query("bavuti")], ITEMS, filter=where.sale.is_present())
    assert answer.plan is Plan.EXACT
    assert {hit.id for hit in answer.hits} == {item for item, values in VALUES.items() if "sale" in values}


def test_a_wire_answer_tells_the_plan(filtered: Path) -> None:
    champion = Champion(filtered)
    request = wire.SearchRequest(query=wire.Query(text="bavuti"), k=3)
    assert wire.SearchResponse.FromString(champion.answer(request)).plan == wire.PLAN_UNFILTERED
    request.filter.CopyFrom(filter_to_wire(NODE))
    assert wire.SearchResponse.FromString(champion.answer(request)).plan == wire.PLAN_EXACT
