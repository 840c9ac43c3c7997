"""Filters from the client to the answer, with histories, popular answers, shadows and metrics."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from tests.helpers.filter_oracle import FILTERS as TREES
from tests.helpers.filter_oracle import passes
from tests.helpers.ports import held_port
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
from twinspire.protos import bundle
from twinspire.protos.errors import InvalidInput
from twinspire.serving.client import RetrievalClient, where
from twinspire.serving.filters.expression import Filter
from twinspire.serving.filters.plan import Plan
from twinspire.serving.retrieval.answer import Basis
from twinspire.serving.retrieval.query import Query
from twinspire.serving.wire.filter_converters import filter_to_wire

ITEMS = 300
VALUES = dict(zip(item_ids(ITEMS), filter_values(ITEMS), strict=True))
NODE = (where.price < 20) | (where.section == "section 1")
EXPECTED = {item for item, values in VALUES.items() if passes(NODE, values)}


@given(node=TREES)
@settings(max_examples=80, deadline=None)
def test_the_answer_holds_exactly_the_items_that_pass(filtered_client: RetrievalClient, node: Filter) -> None:
    answer = filtered_client.search("bavuti", k=ITEMS, filter=node)
    assert {hit.id for hit in answer.hits} == {item for item, each in VALUES.items() if passes(node, each)}
    scores = [hit.score for hit in answer.hits]
    assert scores == sorted(scores, reverse=True)
    assert answer.plan is not Plan.UNFILTERED


def test_a_bundle_without_fields_says_so(client: RetrievalClient) -> None:
    with pytest.raises(InvalidInput, match="this bundle has no filter fields"):
        client.search("bavuti", filter=where.price < 3)


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


def test_the_most_popular_items_that_pass_answer_an_unknown_user(watching: RetrievalClient) -> None:
    answer = watching.search(Query(history=("nonsense",)), k=12, exclude=["item-006"], filter=NODE)
    assert (answer.basis, answer.plan) == (Basis.POPULAR, Plan.POPULAR)
    shares = dict(zip(item_ids(ITEMS), popularity(ITEMS), strict=True))
    best = sorted(EXPECTED - {"item-006"}, key=lambda item: (-shares[item], item))
    assert [hit.id for hit in answer.hits] == best[:12]


def test_queries_of_one_batch_may_have_different_bases(watching: RetrievalClient) -> None:
    queries = [Query(history=("item-001",)), Query(history=("nonsense",)), Query(item_id="item-005")]
    answers = watching.search_batch(queries, k=ITEMS, filter=NODE)
    assert [answer.plan for answer in answers] == [Plan.EXACT, Plan.POPULAR, Plan.EXACT]
    assert [{hit.id for hit in answer.hits} for answer in answers] == [
        EXPECTED,
        EXPECTED,
        EXPECTED - {"item-005"},
    ]


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
    scene.queues.close()
    assert (note["queries"], note["errors"], note["overlap"]) == (20, 0, 20.0)


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
