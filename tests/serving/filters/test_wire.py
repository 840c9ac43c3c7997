"""Requests that no typed client sends: each is refused with INVALID_ARGUMENT that names the field."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.serving.guarded import code_of
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos import retrieval_pb2_grpc
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.segments.packed_items import varint
from twinspire.serving.server import RetrievalServer

NAN, INFINITY = float("nan"), float("inf")
FIELDS = ("section", "tags", "price", "sale", "released")


@pytest.fixture(scope="module")
def stub(filtered_retriever: Retriever) -> Iterator[Any]:
    with RetrievalServer(filtered_retriever) as server, grpc.insecure_channel(server.address) as channel:
        yield retrieval_pb2_grpc.RetrievalStub(channel)


def condition(field: str = "price", **test: Any) -> wire.Filter:
    return wire.Filter(condition=wire.Condition(field=field, **test))


def listed(kind: str, *filters: wire.Filter) -> wire.Filter:
    return wire.Filter(**{kind: wire.FilterList(filters=filters)})  # type: ignore[arg-type]


def number(value: float) -> wire.FilterValue:
    return wire.FilterValue(number=value)


def values(*each: wire.FilterValue) -> dict[str, Any]:
    return {"in": wire.FilterValueList(values=each)}


def nested(depth: int) -> wire.Filter:
    node = condition(present=True)
    for _ in range(depth - 1):
        node = wire.Filter(**{"not": node})  # type: ignore[arg-type]
    return node


def request(node: wire.Filter) -> wire.SearchRequest:
    return wire.SearchRequest(query=wire.Query(text="bavuti"), k=5, filter=node)


def search(stub: Any, node: wire.Filter) -> Any:
    return stub.Search(request(node), timeout=20)


def refusal(stub: Any, node: wire.Filter) -> str:
    code, said = code_of(stub.Search, request(node))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    return said


@pytest.mark.parametrize(
    ("node", "text"),
    [
        (wire.Filter(), "filter: expected one of all, any, not and condition"),
        (condition(), "filter.price: expected one of equals, in, range and present"),
        (condition(equals=number(NAN)), "filter.price: expected a number, got NaN"),
        (condition(range=wire.Range()), "filter.price: expected a bound of the range"),
        (condition(**values(*[number(1)] * 3, number(NAN))), "filter.price.in[3]: expected a number, got N"),
        (condition(**values(number(1), wire.FilterValue())), "filter.price.in[1]: expected a text, a numb"),
        (condition("sale", range=wire.Range(below=number(1))), "filter.sale: expected equals, in or present"),
        (condition("a\nb\0", present=True), "filter.'a\\nb\\x00': unknown filter field"),
        (condition("x" * 9000, present=True), "filter.xxxxxxxx"),
        (listed("all"), "filter.all: expected at least one filter"),
        (listed("any", condition(present=True), wire.Filter()), "filter.any[1]: expected one of all"),
        (
            condition("released", equals=wire.FilterValue(time=Timestamp(seconds=10**15))),
            "filter.released",
        ),
        (
            condition("section", equals=wire.FilterValue(text="x" * 10_001)),
            "filter.section: expected at",
        ),
        (listed("any", *[condition(present=True)] * 65), "filter: expected at most 64 conditions, got more"),
        (condition(**values(*[number(1)] * 1001)), "filter: expected at most 1000 values, got more"),
        (nested(17), "filter: expected at most 16 filters inside each other"),
    ],
)
def test_a_filter_that_is_none_is_refused(stub: Any, node: wire.Filter, text: str) -> None:
    assert refusal(stub, node).startswith(text)


def test_what_is_at_the_bounds_is_taken(stub: Any) -> None:
    for node in (
        nested(16),
        listed("all", *[condition(present=True)] * 64),
        condition(**values(*[number(1)] * 1000)),
        condition(range=wire.Range(at_most=number(INFINITY), above=number(-INFINITY))),
        condition(**values()),
    ):
        assert search(stub, node).plan != wire.PLAN_UNFILTERED


def test_a_message_that_is_nested_too_deep_for_protobuf_is_refused(filtered_retriever: Retriever) -> None:
    node = b""
    for _ in range(300):  # protobuf itself reads a hundred messages inside each other
        node = b"\x1a" + varint(len(node)) + node
    content = wire.SearchRequest(query=wire.Query(text="bavuti")).SerializeToString()
    with RetrievalServer(filtered_retriever) as server, grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary("/retrieval.v1.Retrieval/Search", None, None)
        code, _ = code_of(call, content + b"\x2a" + varint(len(node)) + node)
    assert code is grpc.StatusCode.INVALID_ARGUMENT


VALUES = st.one_of(
    st.builds(number, st.floats()),
    st.text(max_size=8).map(lambda text: wire.FilterValue(text=text)),
    st.booleans().map(lambda value: wire.FilterValue(boolean=value)),
    st.builds(
        lambda seconds, nanos: wire.FilterValue(time=Timestamp(seconds=seconds, nanos=nanos)),
        st.integers(-(2**63), 2**63 - 1),
        st.integers(-(2**31), 2**31 - 1),
    ),
    st.just(wire.FilterValue()),
)
NAMES = st.one_of(st.sampled_from(FIELDS), st.text(max_size=6))
TESTS = st.one_of(
    st.builds(lambda value: {"equals": value}, VALUES),
    st.lists(VALUES, max_size=3).map(lambda each: values(*each)),
    st.dictionaries(st.sampled_from(["at_least", "above", "at_most", "below"]), VALUES).map(
        lambda bounds: {"range": wire.Range(**bounds)}
    ),
    st.builds(lambda present: {"present": present}, st.booleans()),
    st.just({}),
)
MESSAGES = st.recursive(
    st.one_of(st.builds(lambda name, test: condition(name, **test), NAMES, TESTS), st.just(wire.Filter())),
    lambda inner: st.one_of(
        st.builds(
            lambda kind, each: listed(kind, *each),
            st.sampled_from(["all", "any"]),
            st.lists(inner, max_size=3),
        ),
        inner.map(lambda each: wire.Filter(**{"not": each})),
    ),
    max_leaves=6,
)


@given(node=MESSAGES)
@settings(max_examples=100, deadline=None)
def test_any_filter_is_taken_or_refused_by_its_field(stub: Any, node: wire.Filter) -> None:
    try:
        answer = search(stub, node)
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error
        assert str(error.details()).startswith("filter")
    else:
        assert answer.plan != wire.PLAN_UNFILTERED
        assert len(answer.hits) <= 5
