"""A query fills the query tower's features, or the error names the field at fault."""

import math
import time
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pytest

from tests.helpers.tiny_towers import FULL, HISTORY, PLAIN, WATCHED
from twinspire.protos.errors import InvalidInput, UnknownItem
from twinspire.protos.features import FeatureSpec, HistoryFeature, NumberFeature, TextFeature, TimeFeature
from twinspire.serving.client.protocol import score_request, search_fields
from twinspire.serving.retrieval.query import Query, QueryForm, example_query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.wire.converters import RequestLimits, query_from_wire, query_to_wire

TITLE = TextFeature("text", column="title")


def test_text_fills_the_only_text_feature_whatever_its_name() -> None:
    assert QueryForm({"title": TITLE}).values(Query("a"), "query") == {"title": "a"}


def test_what_is_not_given_is_absent() -> None:
    query = Query("", features={"tags": ("new",), "age": 3.0})
    expected = {"text": "", "country": None, "tags": ["new"], "age": 3.0}
    assert QueryForm(FULL).values(query, "query") == expected


def test_a_history_fills_the_only_history_feature_whatever_its_name() -> None:
    assert QueryForm({"seen": HISTORY}).values(Query(history=("a", "b")), "query") == {"seen": ["a", "b"]}


def test_an_example_with_a_history_is_a_query() -> None:
    query = example_query({"history": ["a", "b"], "country": None})
    assert QueryForm(WATCHED).values(query, "query") == {"history": ["a", "b"], "country": None}
    query = example_query({"history": [], "country": "de"})
    assert QueryForm(WATCHED).values(query, "query") == {"history": [], "country": "de"}


DATED: dict[str, FeatureSpec] = {
    "seen": HistoryFeature("history", times=True),
    "asked": TimeFeature("time"),
}


def test_times_are_joined_with_the_history() -> None:
    form = QueryForm(DATED)
    query = Query(history=("a", "b"), history_times=(1.0, float("nan")), features={"asked": 9.0})
    assert form.values(query, "query") == {"seen": [("a", 1.0), ("b", None)], "asked": 9.0}


def test_a_query_with_times_and_without_its_own_is_asked_now() -> None:
    form, before = QueryForm(DATED), time.time()
    values = form.values(Query(history=("a",), history_times=(1.0,)), "query")
    assert values["seen"] == [("a", 1.0)]
    assert before <= cast(float, values["asked"]) <= time.time()
    assert form.values(Query(history=("a",)), "query") == {"seen": ["a"], "asked": None}


def test_an_example_with_times_is_a_query_with_times() -> None:
    example: dict[str, Any] = {"seen": [["a", 1.0], ["b", None]], "asked": 9.0}
    query = example_query(example)
    assert (query.history, query.features) == (("a", "b"), {"asked": 9.0})
    assert query.history_times[0] == 1.0 and math.isnan(query.history_times[1])
    again = query_from_wire(query_to_wire(query), "query")
    assert repr(again) == repr(query)  # NaN equals nothing


@pytest.mark.parametrize(
    ("query", "features", "field"),
    [
        (Query(), PLAIN, "query.text"),
        (Query(features={"age": 3.0}), FULL, "query.text"),
        (Query("a"), {"title": TITLE, "body": TITLE}, "query.text"),
        (Query(features={"title": "a"}), {"title": TITLE, "body": TITLE}, "query.features.body"),
        (Query("a"), {"age": NumberFeature("number", column="age")}, "query.text"),
        (Query("a", history=("item-000",)), PLAIN, "query.history"),
        (Query(history=("a",), features={"history": ("b",)}), WATCHED, "query.features.history"),
        (Query("a"), WATCHED, "query.text"),
        (Query("a", features={"colour": "red"}), FULL, "query.features.colour"),
        (Query("a", features={"text": "b"}), PLAIN, "query.features.text"),
        (Query(history=("a",), history_times=(1.0,)), WATCHED, "query.history_times"),
        (Query(history=("a", "b"), history_times=(1.0,)), DATED, "query.history_times"),
        (Query(history_times=(1.0,), features={"seen": ("a",)}), DATED, "query.history_times"),
        (Query(history=("a",), history_times=(math.inf,)), DATED, "query.history_times[0]"),
        (Query("a", features={"age": float("nan")}), FULL, "query.features.age"),
    ],
)
def test_a_misfit_is_refused_by_name(query: Query, features: Mapping[str, FeatureSpec], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        QueryForm(features).values(query, "query")
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("query", "field"),
    [
        (Query("a", features={"age": 1e300}), "features.age"),
        (Query("a", features={"country": ("de", "fr")}), "features.country"),
        (Query("a", features={"tags": 1.0}), "features.tags"),
        (Query("a", item_id="item-000"), "text"),
        (Query(history_times=(1.0,), item_id="item-000"), "history_times"),
        (Query(history=("item-001",), item_id="item-000"), "history"),
        (Query(features={"age": 1.0}, item_id="item-000"), "features"),
    ],
)
def test_the_query_at_fault_is_named_within_its_batch(
    full_retriever: Retriever, query: Query, field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        full_retriever.search([Query("a"), Query(item_id="item-003"), query], k=1)
    assert caught.value.field == f"queries[2].{field}"


def test_an_unknown_item_is_named(retriever: Retriever) -> None:
    with pytest.raises(UnknownItem, match=r"queries\[1\]\.item_id: .* 'item-999'"):
        retriever.search([Query("a"), Query(item_id="item-999")], k=1)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        (Query("a" * 6), "query.text"),
        (Query(item_id="a" * 6), "query.item_id"),
        (Query(history=("a",) * 4), "query.history"),
        (Query(history_times=(1.0,) * 4), "query.history_times"),
        (Query(features={"tags": ("a",) * 4}), "query.features.tags"),
        (Query(features={"country": "a" * 6}), "query.features.country"),
        (Query(history=("a", "a" * 6)), "query.history"),
        (Query(features={"tags": ("a" * 5, "a" * 6)}), "query.features.tags"),
    ],
)
def test_a_large_query_is_refused_by_name(query: Query, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        RequestLimits(max_text_length=5, max_values=3).check_query(query, "query")
    assert caught.value.field == field


def test_a_query_may_be_as_large_as_the_limits() -> None:
    query = Query("a" * 5, ("a" * 5,) * 3, {"tags": ("a" * 5,) * 3, "none": (), "age": 1e9}, "a" * 5)
    RequestLimits(max_text_length=5, max_values=3).check_query(query, "query")


def test_limits_must_make_sense() -> None:
    with pytest.raises(ValueError, match="max_batch: expected at least 1, got 0"):
        RequestLimits(max_batch=0)
    with pytest.raises(ValueError, match="default_k: expected at most max_k = 5, got 10"):
        RequestLimits(max_k=5)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"history": (22041,)}, 'history: expected item ids as strings, got 22041; write "22041"'),
        ({"history": (np.int64(7),)}, 'history: expected item ids as strings, got 7; write "7"'),
        ({"history": (None,)}, "history: expected item ids as strings, got None"),
        ({"item_id": 22041}, 'item_id: expected item ids as strings, got 22041; write "22041"'),
    ],
)
def test_an_id_that_is_no_string_is_refused_with_the_cure(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Query(**given)
    assert str(caught.value) == said


def test_excluded_and_scored_ids_that_are_no_strings_are_refused_too(retriever: Retriever) -> None:
    for call in (
        lambda: retriever.search([Query("ba ke")], 3, exclude=(22041,)),  # type: ignore[arg-type]
        lambda: search_fields(3, {"exclude": (22041,)}),  # type: ignore[typeddict-item]
    ):
        with pytest.raises(InvalidInput, match='exclude: expected item ids as strings, got 22041; write "22'):
            call()
    with pytest.raises(
        InvalidInput, match=r"queries\[0\]\.item_ids: expected item ids as strings, got 22041"
    ):
        score_request([("ba ke", [22041])])  # type: ignore[list-item]


def test_the_retriever_refuses_one_string_in_place_of_several(retriever: Retriever) -> None:
    with pytest.raises(TypeError, match="queries: expected a sequence of queries, got one string: 'ba ke'"):
        retriever.search("ba ke", 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="exclude: expected a sequence of item ids, got one string"):
        retriever.search([Query("ba ke")], 3, exclude="item-001")
