"""The feed of changes, as a worker reads it from the catalogue's process, and what it adds to a read."""

import json
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.helpers.serving.catalogue_end import Answering
from tests.helpers.waiting import wait_until
from twinspire.protos import catalogue_pb2 as wire
from twinspire.protos.errors import InvalidInput, Unavailable
from twinspire.serving.client import RetrievalClient
from twinspire.serving.client.items import ItemState
from twinspire.serving.live.process.frames import Channel, Frame, FrameKind, StoreClient
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.server import RetrievalServer
from twinspire.serving.shared_state import CATALOGUE, SharedState


class Feed:
    """A worker, and a store of `sequence` changes of which each page has two; its clients' requests.

    With `grows` the store has two changes more after each page. No page comes until `may_answer` is set.
    """

    def __init__(self, channel: Channel, retriever: Retriever) -> None:
        self.sequence, self.grows = 7, False
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.error: Unavailable | None = None
        self.asked: list[dict[str, int]] = []
        self.process = Answering(channel, self._page)
        self.worker = StoreClient(channel)
        self.worker.start()
        state = SharedState((CATALOGUE,))
        state.write(CATALOGUE, {})
        self.server = RetrievalServer(retriever, catalogue=self.worker, shared_state=state)

    @property
    def polls_often(self) -> bool:
        """Whether the worker's event loop looks for outcomes each millisecond."""
        return bool(self.server._event_loop._dispatcher.deferred)

    def _page(self, frame: Frame) -> Frame | None:
        asked = json.loads(frame.payload)
        self.asked.append(asked)
        assert self.may_answer.wait(10)
        if self.error is not None:
            return Frame(FrameKind.ERROR, frame.number, 0, self.error)
        found = range(asked["after"] + 1, min(asked["after"] + 2, self.sequence) + 1)
        page = wire.ChangesResponse(sequence=self.sequence, changes=[{"sequence": each} for each in found])
        if self.grows:
            self.sequence += 2
        return Frame(FrameKind.ANSWER, frame.number, page.sequence, page.SerializeToString())


@pytest.fixture
def feed(retriever: Retriever) -> Iterator[Feed]:
    with closing(Channel()) as channel:
        feed = Feed(channel, retriever)
        with feed.server:
            yield feed
        feed.worker.stop()
        feed.process.close()


@pytest.fixture
def client(feed: Feed) -> Iterator[RetrievalClient]:
    with RetrievalClient(feed.server.address) as client:
        client.wait_ready()
        yield client


def sequences(client: RetrievalClient, after: int = 0) -> list[int]:
    return [each.sequence for page in client.changes(after, timeout=10) for each in page.changes]


def test_the_changes_end_where_the_store_was_at_the_first_page(feed: Feed, client: RetrievalClient) -> None:
    assert sequences(client) == [*range(1, 8)]
    assert [each["after"] for each in feed.asked] == [0, 2, 4, 6]  # no page more, only to find it empty
    feed.grows = True
    assert sequences(client) == [*range(1, 9)]
    assert sequences(client, 15) == []


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize("after", [8, 2**63, 2**64 - 1])
def test_changes_after_a_sequence_that_the_store_has_not_reached_are_refused(
    feed: Feed, client: RetrievalClient, after: int, follow: bool
) -> None:
    with pytest.raises(InvalidInput) as caught:
        next(client.changes(after, follow, timeout=10))
    assert caught.value.field == "after"
    assert caught.value.reason == (
        f"expected at most 7, the store's sequence, got {after}; it may be of another store"
    )
    assert sequences(client, 7) == []


def test_a_stream_that_follows_reads_all_and_then_waits_for_changes(
    feed: Feed, client: RetrievalClient
) -> None:
    feed.may_answer.clear()
    with closing(client.changes(2, follow=True, timeout=10)) as stream:  # type: ignore[type-var]
        reading = threading.Thread(target=lambda: found.extend(next(stream).changes))
        found: list[ItemState] = []
        reading.start()
        wait_until(lambda: len(feed.asked) == 1)
        wait_until(lambda: feed.polls_often)  # an idle loop would notice the page 50 ms late
        feed.may_answer.set()
        reading.join()
        found += [each for _ in range(2) for each in next(stream).changes]
        assert [each.sequence for each in found] == [3, 4, 5, 6, 7]
        wait_until(lambda: len(feed.asked) == 4)
        assert [each["after"] for each in feed.asked] == [2, 4, 6, 7]
        wait_until(lambda: not feed.polls_often)  # there may be no change for days
        feed.sequence = 9
        servicer = feed.server._catalogue
        assert servicer is not None
        feed.server._call_soon(servicer.advance)  # as when this worker has applied changes
        assert [each.sequence for each in next(stream).changes] == [8, 9]


def test_a_page_that_cannot_be_read_ends_the_stream_with_the_reason(
    feed: Feed, client: RetrievalClient
) -> None:
    feed.error = Unavailable("the store is away")
    with pytest.raises(Unavailable, match="the store is away"):
        sequences(client)
    wait_until(lambda: not feed.polls_often)
    feed.error = None
    assert sequences(client, 5) == [6, 7]


def test_the_number_of_ids_is_checked_before_each_of_them(client: RetrievalClient) -> None:
    """A message of 4 MiB holds a million ids; to check them all would hold up the worker."""
    with pytest.raises(InvalidInput) as caught:
        client.get([""] * 1001)
    assert (caught.value.field, caught.value.reason) == ("ids", "expected 1 to 1000 ids, got 1001")
    with pytest.raises(InvalidInput) as caught:
        client.get(["a", ""])
    assert caught.value.field == "ids[1]"
