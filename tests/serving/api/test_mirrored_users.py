"""What the shadow gets of a search with a user."""

import math

import pytest

from tests.helpers.tiny_towers import WATCHED
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.features import FeatureSpec, HistoryFeature, TimeFeature
from twinspire.serving.retrieval.query import PreparedQuery, Query, QueryForm
from twinspire.serving.shadow.mirror import without_user

REQUEST = wire.SearchRequest(query=wire.Query(user="u", history=["item-002"]), exclude=["item-009"], k=3)
DATED: dict[str, FeatureSpec] = {"history": HistoryFeature("history", 4, True), "time": TimeFeature("time")}


def mirrored(form: QueryForm, query: Query, most: int = 10) -> wire.SearchRequest:
    prepared = PreparedQuery("query", form.values(query, "query"), None, ("item-003", "item-004"))
    return without_user(REQUEST, prepared, form, most)


def test_the_shadow_gets_the_history_and_the_exclusions_in_place_of_the_user() -> None:
    form = QueryForm(WATCHED)
    found = mirrored(form, Query(history=("item-001", "item-002")))
    assert found.query == wire.Query(history=["item-001", "item-002"])
    assert [*found.exclude] == ["item-009", "item-003", "item-004"]
    assert found.k == 3
    assert [*mirrored(form, Query(), 2).exclude] == ["item-009", "item-003"]  # as many as it may exclude
    plain = wire.SearchRequest(query=wire.Query(history=["item-001"]))
    assert without_user(plain, PreparedQuery("query", {}), form, 10) is plain
    assert REQUEST.query.user == "u"


def test_a_history_given_by_its_name_is_not_given_twice() -> None:
    request = wire.SearchRequest(query=wire.Query(user="u"))
    request.query.features["history"].strings.values.append("item-002")
    form = QueryForm(WATCHED)
    prepared = PreparedQuery("query", form.values(Query(history=("item-001", "item-002")), "query"))
    assert without_user(request, prepared, form, 10).query == wire.Query(history=["item-001", "item-002"])


def test_times_go_along_and_the_shadow_takes_its_own_clock() -> None:
    query = Query(history=("item-001", "item-002"), history_times=(7.0, math.nan))
    found = mirrored(QueryForm(DATED), query).query
    assert [*found.history_times] == pytest.approx([7.0, math.nan], nan_ok=True)
    assert not found.features
