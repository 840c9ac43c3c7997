"""The client for asyncio says what the blocking one says, and leaves nothing running behind."""

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest

from tests.helpers.answers import differences
from tests.helpers.serving.refusing import Refusing, serving
from tests.helpers.tiny import item_names
from tests.serving.client.ways import WAYS, Way, asynchronous
from twinspire.protos.errors import DeadlineExceeded, InvalidInput, NotAuthenticated, Unavailable, UnknownItem
from twinspire.serving.client import AsyncRetrievalClient, RetrievalClient, Security
from twinspire.serving.retrieval.answer import Answer
from twinspire.serving.retrieval.query import Query
from twinspire.serving.server import RetrievalServer


def test_both_clients_say_the_same(server: RetrievalServer, client: RetrievalClient) -> None:
    queries: list[Query | str] = [*item_names(5), Query(item_id="item-030")]

    async def test(other: AsyncRetrievalClient) -> None:
        found = [await other.search(query, 3, exclude=["item-001"]) for query in queries]
        expected = [client.search(query, 3, exclude=["item-001"]) for query in queries]
        # Equal bits: each query is a batch of its own, in the same server.
        assert [answer.hits for answer in found] == [answer.hits for answer in expected]
        batch = await other.search_batch(queries, 3, exclude=["item-001"])
        assert differences(expected, batch) == []
        stream = [answer async for answer in other.search_stream(queries, 3, exclude=["item-001"])]
        assert differences(expected, stream) == []
        # Equal bits: each is one request, and so the same batch in the same process.
        np.testing.assert_array_equal(await other.encode(queries), client.encode(queries))
        assert (await other.info()).manifest == client.info().manifest

    asynchronous(server.address, test)


def test_queries_may_come_from_an_asynchronous_iterator(server: RetrievalServer) -> None:
    async def queries() -> AsyncIterator[str]:
        for name in item_names(20):
            await asyncio.sleep(0)
            yield name

    async def test(client: AsyncRetrievalClient) -> None:
        answers = [answer async for answer in client.search_stream(queries(), k=1)]
        assert [answer.hits[0].id for answer in answers] == [f"item-{n:03}" for n in range(20)]

    asynchronous(server.address, test)


def test_errors_are_ours(server: RetrievalServer) -> None:
    async def test(client: AsyncRetrievalClient) -> None:
        with pytest.raises(InvalidInput) as caught:
            await client.search("a" * 10_001)
        assert caught.value.field == "query.text"
        with pytest.raises(UnknownItem):
            await client.search(Query(item_id="x"))
        with pytest.raises(InvalidInput, match=r"queries\[1\]: expected Unicode"):
            await client.encode(["a", "\ud800"])
        with pytest.raises(InvalidInput, match="exclude: expected Unicode"):
            await client.search("a", exclude=["\ud800"])
        with pytest.raises(UnknownItem):
            [answer async for answer in client.search_stream(["a", Query(item_id="x")])]

    asynchronous(server.address, test)


def test_a_missing_service_is_unavailable() -> None:
    async def test(client: AsyncRetrievalClient) -> None:
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1: "):
            await client.search("a")
        with pytest.raises(Unavailable, match=r"not serving after 0\.3 s: "):
            await client.wait_ready(timeout=0.3)

    asynchronous("127.0.0.1:1", test, timeout=2)


@pytest.mark.parametrize("way", WAYS)
def test_a_client_that_is_not_let_in_does_not_wait_to_be_ready(way: Way) -> None:
    with serving(Refusing()) as address, pytest.raises(NotAuthenticated, match="unknown token"):
        way(address, lambda client: client.wait_ready(), security=Security(token="wrong"))


@pytest.mark.parametrize("asks", ["search", "search_stream"])
def test_cancelling_a_task_cancels_its_call(asks: str) -> None:
    async def stream(client: AsyncRetrievalClient) -> None:
        async for _ in client.search_stream(endless()):
            pass

    async def endless() -> AsyncIterator[str]:
        yield "a"
        await asyncio.sleep(30)

    async def test(client: AsyncRetrievalClient) -> None:
        work = client.search("wait") if asks == "search" else stream(client)
        task = asyncio.create_task(work)
        while not servicer.attempts:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(servicer.cancelled.wait, 5)

    with serving(servicer := Refusing()) as address:
        asynchronous(address, test, timeout=30)


def test_a_timeout_of_asyncio_is_asyncios() -> None:
    async def test(client: AsyncRetrievalClient) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.search("wait"), 0.1)
        with pytest.raises(DeadlineExceeded):
            await client.search("wait", timeout=0.1)

    with serving(servicer := Refusing()) as address:
        asynchronous(address, test)
        assert servicer.cancelled.wait(5)


def test_what_the_queries_raise_comes_after_the_answers_before(
    server: RetrievalServer, client: RetrievalClient, caplog: pytest.LogCaptureFixture
) -> None:
    def queries() -> Iterator[str]:
        yield "a"
        yield "b"
        raise KeyError("mine")

    async def test(other: AsyncRetrievalClient) -> None:
        answers = []
        with pytest.raises(KeyError, match="mine"):
            async for answer in other.search_stream(queries()):
                answers.append(answer)  # noqa: PERF401 - which would lose them
        assert len(answers) == 2
        with pytest.raises(InvalidInput, match="query: expected Unicode"):
            [answer async for answer in other.search_stream(["a", "\ud800"])]

    asynchronous(server.address, test)
    answers: list[Answer] = []
    with pytest.raises(KeyError, match="mine"):
        answers.extend(client.search_stream(queries()))
    assert len(answers) == 2
    assert not caplog.records


def test_leaving_a_stream_ends_it() -> None:
    async def test(client: AsyncRetrievalClient) -> None:
        stream = client.search_stream("a" for _ in range(1_000_000))
        assert (await anext(stream)).hits[0].id == "a"
        await stream.aclose()  # type: ignore[attr-defined]
        assert await asyncio.to_thread(servicer.cancelled.wait, 5)

    with serving(servicer := Refusing()) as address:
        asynchronous(address, test)
    gc.collect()


def test_one_string_in_place_of_several_is_refused(client: RetrievalClient) -> None:
    several = pytest.raises(TypeError, match="queries: expected a sequence of queries, got one string: 'ba'")
    ids = pytest.raises(TypeError, match="exclude: expected a sequence of item ids, got one string: '001'")
    for call in (client.search_batch, client.search_stream, client.encode):
        with several:
            call("ba")
    with ids:
        client.search("ba", exclude="001")
    with pytest.raises(TypeError, match="got list, search_batch answers several"):
        client.search(["ba", "vu"])  # type: ignore[arg-type]
