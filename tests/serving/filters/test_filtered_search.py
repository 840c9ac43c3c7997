"""Filters from the client to the answer, on a real server."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings

from tests.helpers.filter_oracle import FILTERS, passes
from tests.helpers.tiny import filter_values, item_ids
from twinspire.protos.errors import InvalidInput
from twinspire.protos.nearest import search
from twinspire.serving.client import RetrievalClient, where
from twinspire.serving.filters.expression import Filter
from twinspire.serving.filters.plan import Plan
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever

ITEMS = 300
NAN = float("nan")
VALUES = dict(zip(item_ids(ITEMS), filter_values(ITEMS), strict=True))


def expected(node: Filter) -> set[str]:
    return {item for item, values in VALUES.items() if passes(node, values)}


@given(node=FILTERS)
@settings(max_examples=80, deadline=None)
def test_the_answer_holds_exactly_the_items_that_pass(filtered_client: RetrievalClient, node: Filter) -> None:
    answer = filtered_client.search("bavuti", k=ITEMS, filter=node)
    assert {hit.id for hit in answer.hits} == expected(node)
    scores = [hit.score for hit in answer.hits]
    assert scores == sorted(scores, reverse=True)
    assert answer.plan is not Plan.UNFILTERED


def test_the_order_is_that_of_a_search_without_a_filter(filtered_client: RetrievalClient) -> None:
    node = (where.section == "section 1") | (where.price < 10)
    every = [hit.id for hit in filtered_client.search("bavuti", k=ITEMS).hits]
    found = [hit.id for hit in filtered_client.search("bavuti", k=10, filter=node).hits]
    assert found == [item for item in every if item in expected(node)][:10]


def test_each_query_of_a_batch_gets_the_filter(filtered_client: RetrievalClient) -> None:
    node = where.released >= datetime(2026, 1, 10, tzinfo=UTC)
    answers = filtered_client.search_batch(["bavuti", "kelimo", "zo"], k=ITEMS, filter=node)
    assert [{hit.id for hit in answer.hits} for answer in answers] == [expected(node)] * 3
    assert {answer.plan for answer in answers} == {Plan.EXACT}


def test_a_stream_gets_the_filter(filtered_client: RetrievalClient) -> None:
    node = where.sale == True  # noqa: E712
    answers = [*filtered_client.search_stream(["bavuti", "kelimo"], k=ITEMS, filter=node)]
    assert [{hit.id for hit in answer.hits} for answer in answers] == [expected(node)] * 2


def test_excluded_items_are_left_out_and_replaced(filtered_client: RetrievalClient) -> None:
    node = where.section == "section 2"
    all_hits = [hit.id for hit in filtered_client.search("bavuti", k=ITEMS, filter=node).hits]
    left = [hit.id for hit in filtered_client.search("bavuti", k=5, exclude=all_hits[:3], filter=node).hits]
    assert left == all_hits[3:8]


def test_an_item_as_query_is_left_out(filtered_client: RetrievalClient) -> None:
    node = where.section.is_present()
    item = min(expected(node))
    answer = filtered_client.search(Query(item_id=item), k=ITEMS, filter=node)
    assert {hit.id for hit in answer.hits} == expected(node) - {item}


def test_a_filter_that_no_item_passes_gives_an_empty_answer(filtered_client: RetrievalClient) -> None:
    answer = filtered_client.search("bavuti", filter=where.price > 1000)
    assert (answer.hits, answer.plan) == ((), Plan.EMPTY)


def test_info_tells_fields_and_bounds(filtered_client: RetrievalClient) -> None:
    info = filtered_client.info()
    assert info.filter_fields == {
        "price": "number",
        "released": "time",
        "sale": "boolean",
        "section": "string",
        "tags": "strings",
    }
    assert info.limits.max_filter_conditions == 64


@pytest.mark.parametrize(
    ("node", "text"),
    [
        (where.size < 3, "filter.size: unknown filter field; the filter fields are price (number), released"),
        (
            where.prise < 3,
            "filter.prise: unknown filter field; the filter fields are price (number), released (time), "
            "sale (boolean), section (string), tags (strings); did you mean price?",
        ),
        (where.price == "3", "filter.price: expected a number, got a string"),
        (where.price == NAN, "filter.price: expected a number, got NaN"),
        (where.section < 3, "filter.section: expected equals, in or present, because it is a string"),
        ((where.price < 3) & (where.sale == 1.0), "filter.all[1].sale: expected a boolean, got a number"),
        (~(where.tags == "a") | (where.released == 3.0), "filter.any[1].released: expected a time, got a n"),
    ],
)
def test_a_filter_that_does_not_fit_is_refused(
    filtered_client: RetrievalClient, node: Filter, text: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        filtered_client.search("bavuti", filter=node)
    assert str(refused.value).startswith(text)


def test_a_bundle_without_fields_says_so(client: RetrievalClient) -> None:
    with pytest.raises(InvalidInput, match="this bundle has no filter fields"):
        client.search("bavuti", filter=where.price < 3)


def test_many_items_that_pass_are_searched_in_the_graph(
    large_retriever: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "EXACT_SHARE", 1)  # as if comparing took long: as it does with many items
    node = where.price >= 0
    (answer,) = large_retriever.search([Query("bavuti")], 5, filter=node)
    values = dict(zip(item_ids(8000), filter_values(8000), strict=True))
    assert answer.plan is Plan.GRAPH
    assert len(answer.hits) == 5
    assert all(passes(node, values[hit.id]) for hit in answer.hits)
