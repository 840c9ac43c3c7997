"""The way to the shadow: it holds what fits, counts what does not, and never blocks its writer."""

import math
import os
import random
from collections.abc import Iterator
from contextlib import closing
from functools import partial

import pytest

from tests.helpers.forking import fork
from tests.helpers.tiny_towers import WATCHED
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.features import FeatureSpec, HistoryFeature, TimeFeature
from twinspire.serving.retrieval.query import PreparedQuery, Query, QueryForm
from twinspire.serving.served_log.shared_queue import SharedQueues
from twinspire.serving.shadow.mirror import MOST_WAITING, Mirrored, TrafficMirror, received, without_user
from twinspire.serving.shared_state import SharedState

REQUEST = wire.SearchRequest(query=wire.Query(text="bavuti"), k=3)
EMPTY = wire.SearchRequest()
RESPONSE = wire.SearchResponse(bundle_version="a" * 64).SerializeToString()


@pytest.fixture
def queues() -> Iterator[SharedQueues]:
    with closing(SharedQueues(3, MOST_WAITING)) as queues:
        yield queues


def mirror_of(queues: SharedQueues, slot: int = 0, share: float = 1.0) -> TrafficMirror:
    state = SharedState(("shadow target",))
    state.write("shadow target", {"bundle_version": "x"})
    return TrafficMirror(queues, state, slot, share, most=10)


def receive(queues: SharedQueues, most: int) -> list[Mirrored]:
    return [*received(queues, most)]


def test_what_is_offered_arrives_whole_and_in_order(queues: SharedQueues) -> None:
    mirror = mirror_of(queues)
    mirror.send(REQUEST, RESPONSE)
    mirror.send(REQUEST, b"")
    mirror.send(EMPTY, RESPONSE)
    assert queues.wait(0)
    content = REQUEST.SerializeToString()
    assert receive(queues, 2) == [(content, RESPONSE), (content, b"")]
    assert receive(queues, 2) == [(b"", RESPONSE)]
    assert receive(queues, 2) == []
    assert not queues.wait(0)
    assert queues.dropped == 0


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.1, 850, 1150), (1.0, 10_000, 10_000)])
def test_a_share_of_the_queries_is_wanted(queues: SharedQueues, share: float, least: int, most: int) -> None:
    random.seed(0)
    mirror = mirror_of(queues, share=share)
    assert least <= sum(mirror.samples() for _ in range(10_000)) <= most


def test_nothing_is_wanted_while_the_shadow_has_no_target(queues: SharedQueues) -> None:
    state = SharedState(("shadow target",))
    mirror = TrafficMirror(queues, state, 0, 1.0, most=10)
    assert not mirror.samples()
    for target in ({"bundle_version": "x"}, {}, {"bundle_version": "y"}):
        state.write("shadow target", target)
        assert mirror.samples() == bool(target)


def test_what_a_shadow_is_too_busy_for_is_dropped_and_counted(queues: SharedQueues) -> None:
    mirror = mirror_of(queues)
    offered = 0
    while queues.dropped < 10:
        mirror.send(REQUEST, RESPONSE)
        offered += 1
        assert offered < 1_000_000, "there is no end to what the queue takes"
    received = len(receive(queues, 1_000_000))
    assert received > 32
    assert received + queues.dropped == offered
    mirror.send(REQUEST, RESPONSE)  # and there is room again
    assert len(receive(queues, 2)) == 1
    assert queues.dropped == 10


def test_what_is_too_large_is_dropped_and_the_next_is_not(queues: SharedQueues) -> None:
    mirror = mirror_of(queues, 1)
    mirror.send(REQUEST, bytes(8 << 20))
    mirror.send(REQUEST, RESPONSE)
    assert [response for _, response in receive(queues, 2)] == [RESPONSE]
    assert queues.dropped == 1


def test_what_several_processes_drop_is_summed(queues: SharedQueues) -> None:
    def drop(slot: int) -> None:
        mirror = mirror_of(queues, slot)
        for _ in range(slot + 1):
            mirror.send(REQUEST, bytes(8 << 20))
        mirror.send(wire.SearchRequest(k=slot), RESPONSE)

    children = [fork(partial(drop, slot)) for slot in range(3)]
    for pid in children:
        os.waitpid(pid, 0)
    assert queues.dropped == 6
    sent = {wire.SearchRequest.FromString(request).k for request, _ in receive(queues, 9)}
    assert sent == {0, 1, 2}


OF_USER = wire.SearchRequest(query=wire.Query(user="u", history=["item-002"]), exclude=["item-009"], k=3)
DATED: dict[str, FeatureSpec] = {"history": HistoryFeature("history", 4, True), "time": TimeFeature("time")}


def mirrored(form: QueryForm, query: Query, most: int = 10) -> wire.SearchRequest:
    prepared = PreparedQuery("query", form.values(query, "query"), None, ("item-003", "item-004"))
    return without_user(OF_USER, prepared, form, most)


def test_the_shadow_gets_the_history_and_the_exclusions_in_place_of_the_user() -> None:
    form = QueryForm(WATCHED)
    found = mirrored(form, Query(history=("item-001", "item-002")))
    assert found.query == wire.Query(history=["item-001", "item-002"])
    assert [*found.exclude] == ["item-009", "item-003", "item-004"]
    assert found.k == 3
    assert [*mirrored(form, Query(), 2).exclude] == ["item-009", "item-003"]  # as many as it may exclude
    plain = wire.SearchRequest(query=wire.Query(history=["item-001"]))
    assert without_user(plain, PreparedQuery("query", {}), form, 10) is plain
    assert OF_USER.query.user == "u"


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
