"""The connection between workers and the catalogue's process, whichever of them dies."""

import os
import pickle
import queue
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from tests.helpers.forking import fork
from tests.helpers.serving.catalogue_end import Answering
from tests.helpers.waiting import wait_until
from twinspire.protos.errors import InvalidInput, Overloaded, TwinspireError, Unavailable
from twinspire.serving.live.process import frames as channels
from twinspire.serving.live.process.frames import Channel, Frame, FrameKind, Peer, StoreClient


def echo(frame: Frame) -> Frame:
    return Frame(FrameKind.ANSWER, frame.number, 7, frame.payload)


class Asking:
    """A worker's end, and the replies that it got."""

    def __init__(self, channel: Channel) -> None:
        self.client = StoreClient(channel)
        self.replies: queue.Queue[Frame | TwinspireError] = queue.Queue()
        self.client.start()

    def ask(self, payload: bytes, repeatable: bool = True) -> None:
        self.client.ask(FrameKind.WRITE, payload, self.replies.put, repeatable)

    def reply(self) -> Frame | TwinspireError:
        return self.replies.get(timeout=10)

    def payload(self) -> bytes:
        reply = self.reply()
        assert isinstance(reply, Frame)
        assert reply.value == 7
        return bytes(reply.payload)

    def close(self) -> None:
        self.client.stop()


@pytest.fixture
def channel() -> Iterator[Channel]:
    with closing(Channel()) as channel:
        yield channel


@pytest.fixture
def asking(channel: Channel) -> Iterator[Asking]:
    with closing(Asking(channel)) as asking:
        yield asking


def test_requests_of_any_size_are_answered_whoever_starts_first(channel: Channel, asking: Asking) -> None:
    payloads = [os.urandom(size) for size in (0, 1, 1000, 3_000_000, 5, 8_000_000)]
    for payload in payloads[:2]:
        asking.ask(payload)  # the answering side has not connected yet
    with closing(Answering(channel, echo)):
        for payload in payloads[2:]:
            asking.ask(payload)
        assert [asking.payload() for _ in payloads] == payloads
        with closing(Asking(channel)) as other:
            other.ask(b"other")
            assert other.payload() == b"other"


def test_a_process_that_ends_leaves_no_request_without_a_reply(channel: Channel, asking: Asking) -> None:
    first = Answering(channel, lambda frame: None)
    asking.ask(b"may be repeated")
    asking.ask(b"may not", repeatable=False)
    while len(first.received) < 2:
        time.sleep(0.005)
    first.close()
    lost = asking.reply()
    assert isinstance(lost, Unavailable)
    assert "not known" in str(lost)
    asking.ask(b"later")
    with closing(Answering(channel, echo)) as second:
        assert [asking.payload(), asking.payload()] == [b"may be repeated", b"later"]
        assert [each.payload for each in second.received] == [b"may be repeated", b"later"]


def test_a_worker_that_is_killed_in_the_middle_of_a_frame_harms_no_other(
    channel: Channel, asking: Asking
) -> None:
    def send_half() -> None:
        connected = channel.connect()
        connected.sendall(pickle.dumps((FrameKind.WRITE, 1, 0, bytes(1_000_000)))[:100])
        os.kill(os.getpid(), signal.SIGKILL)

    with closing(Answering(channel, echo)) as answering:
        asking.ask(b"before")
        assert asking.payload() == b"before"
        os.waitpid(fork(send_half), 0)
        asking.ask(b"after")
        assert asking.payload() == b"after"
        assert [each.payload for each in answering.received] == [b"before", b"after"]


def test_a_worker_stops_while_no_process_takes_its_connection(channel: Channel, asking: Asking) -> None:
    waiting: list[socket.socket] = []
    with closing(Answering(channel, echo)):
        asking.ask(b"x")
        asking.reply()
    with suppress(OSError):  # fill the queue of connections, so that the worker cannot connect again
        while len(waiting) < 10_000:
            waiting.append(channel.connect())
    time.sleep(0.3)
    started = time.monotonic()
    asking.close()
    assert time.monotonic() - started < 2.0
    for each in waiting:
        each.close()


def test_more_than_may_wait_is_refused_until_the_process_has_replied(
    channel: Channel, asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "MAX_REQUESTS", 3)
    monkeypatch.setattr(channels, "MAX_BYTES", 100)
    answering = Answering(channel, lambda frame: None)
    for _ in range(2):
        asking.ask(b"x" * 40)
    with pytest.raises(Overloaded):
        asking.ask(b"x" * 40)
    asking.ask(b"x")
    with pytest.raises(Overloaded):
        asking.ask(b"x")
    wait_until(lambda: len(answering.received) == 3)
    answering.close()
    with closing(Answering(channel, echo)):
        assert sorted(len(asking.payload()) for _ in range(3)) == [1, 40, 40]
        asking.ask(b"x" * 200)  # one of any size waits alone
        assert asking.payload() == b"x" * 200


@pytest.mark.parametrize(
    "error",
    [InvalidInput("items[3].id", "unknown"), Overloaded("too much", float("inf"))],
    ids=repr,
)
def test_errors_are_the_same_on_the_other_side(
    channel: Channel, asking: Asking, error: TwinspireError
) -> None:
    with closing(Answering(channel, lambda frame: Frame(FrameKind.ERROR, frame.number, 0, error))):
        asking.ask(b"")
        found = asking.reply()
    assert (type(found), str(found), vars(found)) == (type(error), str(error), vars(error))


def test_a_frame_that_cannot_be_handled_ends_neither_its_connection_nor_another(
    caplog: pytest.LogCaptureFixture,
) -> None:
    received: queue.Queue[Frame] = queue.Queue()
    closed: list[Peer] = []

    def take(peer: Peer, frame: Frame) -> None:
        received.put(frame)
        raise ValueError("not a frame that this end knows")

    def lose(peer: Peer) -> None:
        closed.append(peer)
        raise ValueError("no new connection")

    ours, theirs = socket.socketpair()
    gone, kept = socket.socketpair()
    gone.close()
    first, second = (Peer("test", each, take, lose) for each in (ours, kept))
    first.start()
    second.start()
    wait_until(lambda: closed == [second])
    frame = Frame(FrameKind.WRITE, 2, 3, b"x")
    with theirs:
        for _ in range(2):
            theirs.sendall(pickle.dumps(frame))
            assert received.get(timeout=5) == frame
        assert "could not be handled" in caplog.text
        theirs.settimeout(5)
        first.send(frame)
        assert pickle.loads(theirs.recv(1000)) == frame
        first.send(Frame(FrameKind.WRITE, 2, 3, threading.Lock()))  # which cannot be written
        assert theirs.recv(1) == b""


def test_a_worker_connects_again_although_the_end_of_a_request_could_not_be_told(
    channel: Channel, asking: Asking
) -> None:
    def fail(reply: Frame | TwinspireError) -> None:
        raise ValueError("the event loop is closed")

    with closing(Answering(channel, lambda frame: None)) as first:
        asking.client.ask(FrameKind.WRITE, b"may not", fail, repeatable=False)
        wait_until(lambda: first.received)
    with closing(Answering(channel, echo)):
        asking.ask(b"later")
        assert asking.payload() == b"later"
