"""What is tried again, how often, for how long; and which error a caller sees."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import repeat
from operator import methodcaller

import grpc
import pytest

from tests.helpers.serving.refusing import Refusing, serving
from tests.serving.client.ways import WAYS, Way, asynchronous, blocking, streamed
from twinspire.protos import errors
from twinspire.serving.client import AsyncRetrievalClient, Item, RetrievalClient
from twinspire.serving.client.items import ItemResult, Refusal
from twinspire.serving.client.protocol import RETRIES, THROTTLING
from twinspire.serving.retrieval.answer import Answer

Code = grpc.StatusCode
Ask = Callable[[str], Answer]
RETRIED = [Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED]


def ask(address: str, text: str = "a") -> Answer:
    answer: Answer = blocking(address, methodcaller("search", text))
    return answer


def ask_async(address: str, text: str = "a") -> Answer:
    answer: Answer = asynchronous(address, methodcaller("search", text))
    return answer


def stream_async(address: str) -> Answer:
    answer: Answer
    (answer,) = asynchronous(address, lambda client: streamed(client.search_stream(["a"], timeout=5)))
    return answer


@pytest.mark.parametrize("way", [ask, stream_async])
@pytest.mark.parametrize("code", RETRIED)
def test_a_busy_service_is_asked_again(way: Ask, code: grpc.StatusCode) -> None:
    with serving(busy := Refusing([code] * 2, pushback_ms=10)) as address:
        assert [hit.id for hit in way(address).hits] == ["a"]
        assert busy.attempts == 3


@pytest.mark.parametrize("way", [ask, stream_async])
@pytest.mark.parametrize(
    ("code", "error"),
    [
        (Code.INVALID_ARGUMENT, errors.InvalidInput),
        (Code.NOT_FOUND, errors.UnknownItem),
        (Code.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
        (Code.CANCELLED, errors.Unavailable),
        (Code.UNAUTHENTICATED, errors.NotAuthenticated),
        (Code.PERMISSION_DENIED, errors.NotAuthorised),
        (Code.INTERNAL, errors.TwinspireError),
        (Code.UNKNOWN, errors.TwinspireError),
        (Code.UNIMPLEMENTED, errors.TwinspireError),
        (Code.FAILED_PRECONDITION, errors.TwinspireError),
    ],
)
def test_any_other_refusal_is_final(
    way: Ask, code: grpc.StatusCode, error: type[errors.TwinspireError]
) -> None:
    with serving(refusing := Refusing([code])) as address:
        with pytest.raises(errors.TwinspireError) as caught:
            way(address)
        assert type(caught.value) is error
        assert refusing.attempts == 1


@pytest.mark.parametrize("way", [ask, ask_async])
@pytest.mark.parametrize(
    ("code", "error"),
    [(Code.UNAVAILABLE, errors.Unavailable), (Code.RESOURCE_EXHAUSTED, errors.Overloaded)],
)
def test_attempts_are_bounded(way: Ask, code: grpc.StatusCode, error: type[errors.TwinspireError]) -> None:
    with serving(busy := Refusing([code] * 9)) as address:
        began = time.monotonic()
        with pytest.raises(error, match="refused"):
            way(address)
        assert busy.attempts == RETRIES["maxAttempts"] == 4
        assert 0.5 < time.monotonic() - began < 3  # 0.1, 0.2 and 0.4 s, each a fifth more or less


@pytest.mark.parametrize("way", [ask, ask_async])
def test_the_servers_word_on_when_to_come_back_is_obeyed_and_passed_on(way: Ask) -> None:
    with serving(busy := Refusing([Code.RESOURCE_EXHAUSTED] * 4, pushback_ms=200)) as address:
        began = time.monotonic()
        with pytest.raises(errors.Overloaded) as caught:
            way(address)
        assert time.monotonic() - began > 0.6
        assert caught.value.retry_after == 0.2
    with serving(busy := Refusing([Code.RESOURCE_EXHAUSTED], pushback_ms=-1)) as address:
        with pytest.raises(errors.Overloaded):
            way(address)
        assert busy.attempts == 1


def test_the_deadline_holds_over_all_attempts() -> None:
    with serving(busy := Refusing(always(), pushback_ms=400)) as address:
        with RetrievalClient(address, timeout=0.5) as client:
            began = time.monotonic()
            with pytest.raises(errors.DeadlineExceeded):
                client.search("a")
            assert time.monotonic() - began < 1.5
        assert busy.attempts == 2


@pytest.mark.parametrize(("default", "timeout"), [(0.2, None), (60.0, 0.2)])
def test_every_call_has_a_deadline(default: float, timeout: float | None) -> None:
    with (
        serving(Refusing()) as address,
        RetrievalClient(address, default) as client,
        pytest.raises(errors.DeadlineExceeded),
    ):
        client.search("wait", timeout=timeout)


def test_a_refused_stream_says_why_while_queries_are_being_sent() -> None:
    async def run(client: AsyncRetrievalClient) -> None:
        for _ in range(50):
            with pytest.raises(errors.Overloaded):
                [answer async for answer in client.search_stream(["a"] * 50)]

    with serving(Refusing(always())) as address:
        asynchronous(address, run, retries=False)


@pytest.mark.parametrize("way", WAYS)
def test_a_stream_that_ends_with_too_few_answers_is_an_error(way: Way) -> None:
    text = "the stream ended with 2 answers to 3 requests"
    with serving(Refusing()) as address, pytest.raises(errors.Unavailable, match=text):
        way(address, lambda client: streamed(client.search_stream(["a", "skip", "b"], timeout=10)))


def test_a_stream_that_ends_before_all_queries_are_sent_is_an_error() -> None:
    ended = threading.Event()

    def waiting() -> Iterator[str]:
        yield from ["a", "b", "end"]
        ended.wait(20)
        yield from ["c"] * 7

    async def later() -> AsyncIterator[str]:
        for text in ["a", "b", "end"]:
            yield text
        await asyncio.sleep(20)
        yield "c"

    async def run(client: AsyncRetrievalClient) -> None:
        async for answer in client.search_stream(later(), timeout=10):
            found.append(answer.hits[0].id)  # noqa: PERF401 - which would lose them

    found: list[str] = []
    text = "the stream ended with 3 answers to requests of which not all were sent"
    with serving(Refusing()) as address:
        with RetrievalClient(address) as client, pytest.raises(errors.Unavailable, match=text):
            found.extend(answer.hits[0].id for answer in client.search_stream(waiting(), timeout=10))
        ended.set()
        assert found == ["a", "b", "end"]
        found.clear()
        with pytest.raises(errors.Unavailable, match=text):
            asynchronous(address, run)
        assert found == ["a", "b", "end"]


@pytest.mark.parametrize("way", WAYS)
def test_retries_can_be_turned_off(way: Way) -> None:
    with serving(busy := Refusing(always())) as address:
        with pytest.raises(errors.Overloaded):
            way(address, methodcaller("search", "a"), retries=False)
        assert busy.attempts == 1


def test_retries_do_not_keep_an_overloaded_server_down() -> None:
    calls = 40
    with serving(busy := Refusing(always(), pushback_ms=1)) as address:
        with RetrievalClient(address) as client:
            for _ in range(calls):
                with pytest.raises(errors.Overloaded):
                    client.search("a")
        spent = THROTTLING["maxTokens"] // 2
        assert busy.attempts < calls + spent
        busy.codes.clear()
        assert ask(address).hits


def test_a_large_request_is_sent_once() -> None:
    with serving(busy := Refusing(always(), pushback_ms=1)) as address:
        with RetrievalClient(address) as client, pytest.raises(errors.Overloaded):
            client.search("a" * (300 << 10))
        assert busy.attempts == 1


@pytest.mark.parametrize("way", [ask, ask_async])
def test_a_message_above_the_servers_bound_is_the_callers_fault(way: Callable[[str, str], Answer]) -> None:
    with serving(Refusing()) as address, pytest.raises(errors.InvalidInput, match="larger than max"):
        way(address, "a" * (5 << 20))


Use = Callable[[RetrievalClient], object]
CATALOGUE_CALLS: list[Use] = [
    lambda client: client.upsert([Item("a")]),
    lambda client: client.upsert([Item("a")], request_id=""),
    lambda client: client.delete(["a"]),
    lambda client: client.get(["a"]),
]


def close_throttle(client: RetrievalClient, busy: Refusing) -> None:
    """Fail until gRPC retries nothing on this connection."""
    busy.codes, busy.pushback_ms = [Code.UNAVAILABLE] * 500, 1
    for _ in range(100):  # each takes a token at least
        with pytest.raises(errors.Unavailable):
            client.search("a")
    busy.codes, busy.pushback_ms, busy.attempts = [], None, 0


@pytest.mark.exhaustive
@pytest.mark.parametrize("call", CATALOGUE_CALLS, ids=["upsert", "empty id", "delete", "get"])
def test_a_write_is_repeated_with_its_id_also_after_many_failures(call: Use) -> None:
    with serving(busy := Refusing()) as address, RetrievalClient(address) as client:
        close_throttle(client, busy)
        busy.codes = [Code.UNAVAILABLE] * 5
        call(client)
        assert busy.attempts == 6
        assert "" not in busy.request_ids
        assert len(set(busy.request_ids)) <= 1


def test_a_large_write_is_repeated() -> None:
    with serving(busy := Refusing([Code.UNAVAILABLE])) as address, RetrievalClient(address) as client:
        client.upsert([Item("a", {"text": "a" * (300 << 10)})])
        assert busy.attempts == 2


@pytest.mark.parametrize("way", WAYS)
def test_a_write_is_repeated_until_its_deadline_and_fails_with_the_reason(way: Way) -> None:
    with serving(busy := Refusing([Code.UNAVAILABLE] * 500)) as address:
        began = time.monotonic()
        # If the deadline cuts the last attempt off, the error names that of the attempt before.
        with pytest.raises(errors.Unavailable, match="refused"):
            way(address, methodcaller("upsert", [Item("a")], timeout=0.8))
        assert time.monotonic() - began < 2
        assert 2 <= busy.attempts <= 4


@pytest.mark.parametrize("way", WAYS)
def test_a_write_whose_last_attempt_meets_the_deadline_names_the_error_before_it(way: Way) -> None:
    with serving(busy := Refusing([Code.UNAVAILABLE])) as address:
        busy.answers_writes.clear()
        with pytest.raises(
            errors.DeadlineExceeded, match=r"; the attempt before failed: .*refused"
        ) as caught:
            way(address, methodcaller("upsert", [Item("a")], timeout=2.0))
        busy.answers_writes.set()
    assert busy.request_ids == [caught.value.request_id] * 2


@pytest.mark.parametrize(
    ("code", "pushback_ms", "attempts"),
    [
        (Code.RESOURCE_EXHAUSTED, -1, 1),  # the bundle must be refreshed first
        (Code.RESOURCE_EXHAUSTED, 10, 3),
        (Code.RESOURCE_EXHAUSTED, 60_000, 1),  # later than the deadline
        (Code.CANCELLED, None, 1),
        (Code.INVALID_ARGUMENT, None, 1),
        (Code.INTERNAL, None, 1),
    ],
)
def test_a_write_is_repeated_only_where_that_may_help(
    code: grpc.StatusCode, pushback_ms: int | None, attempts: int
) -> None:
    with serving(busy := Refusing([code] * 2, pushback_ms)) as address, RetrievalClient(address) as client:
        if attempts == 3:
            client.upsert([Item("a")])
        else:
            with pytest.raises(errors.TwinspireError, match="refused"):
                client.upsert([Item("a")])
        assert busy.attempts == attempts


def test_writes_are_not_repeated_without_retries_nor_by_a_client_that_is_closed() -> None:
    with serving(busy := Refusing([Code.UNAVAILABLE] * 500, pushback_ms=1)) as address:
        with RetrievalClient(address, retries=False) as client, pytest.raises(errors.Unavailable):
            client.upsert([Item("a")])
        assert busy.attempts == 1
        with RetrievalClient(address, timeout=60.0) as client:
            threading.Timer(0.5, client.close).start()
            with pytest.raises(errors.Unavailable):
                client.upsert([Item("a")])


def always() -> list[grpc.StatusCode]:
    return list(repeat(Code.RESOURCE_EXHAUSTED, 500))


@pytest.mark.parametrize("given", [None, "mine"])
@pytest.mark.parametrize("operation", ["upsert", "delete"])
@pytest.mark.parametrize("way", WAYS)
def test_a_write_that_fails_tells_the_id_with_which_to_repeat_it(
    operation: str, given: str | None, way: Way
) -> None:
    write = methodcaller(operation, [Item("a")] if operation == "upsert" else ["a"], request_id=given)
    for code in (Code.UNAVAILABLE, Code.INTERNAL, Code.UNIMPLEMENTED):  # the first is repeated
        with serving(refusing := Refusing([code] * 100)) as address:
            with pytest.raises(errors.TwinspireError) as caught:
                way(address, write, timeout=0.5)
            assert {caught.value.request_id} == {*refusing.request_ids}
            assert caught.value.request_id == (given or caught.value.request_id) != ""


@pytest.mark.parametrize(
    ("way", "write", "items"), [(blocking, "upsert", [Item("a")]), (asynchronous, "delete", ["a"])]
)
def test_an_error_code_of_a_newer_server_counts_as_a_refusal(
    way: Way, write: str, items: list[Item | str]
) -> None:
    strictly = methodcaller(write, items, strict=True)
    with serving(newer := Refusing()) as address:
        assert way(address, strictly).results == (ItemResult("a", 1),)
        newer.write_error = 77
        with pytest.raises(errors.WriteRefused, match="1 of 1 items: 'a': error 77 of a newer server"):
            way(address, strictly)
        (result,) = way(address, methodcaller(write, items, strict=False)).results
        assert result.refusal is Refusal.UNKNOWN
        assert result.text.startswith("error 77 of a newer server")


def test_an_error_of_a_read_has_no_request_id() -> None:
    with serving(Refusing([Code.INTERNAL])) as address, RetrievalClient(address) as client:
        with pytest.raises(errors.TwinspireError) as caught:
            client.get(["a"])
        assert caught.value.request_id == ""
