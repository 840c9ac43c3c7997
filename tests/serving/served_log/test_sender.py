"""What a worker sends to the process of the log while that process is behind, and at its own end."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from twinspire.serving.datagrams import DatagramChannel
from twinspire.serving.served_log import sender
from twinspire.serving.served_log.sender import LogSender

ANSWER = 10_000  # bytes


@pytest.fixture
def channel() -> Iterator[DatagramChannel]:
    with closing(DatagramChannel(2)) as channel:
        yield channel


def received(channel: DatagramChannel) -> bytes:
    """All that arrives, until nothing has come for a second."""
    found = b""
    while channel.wait(1.0):
        found += b"".join(channel.receive(100))
    return found


def answers(count: int) -> list[tuple[bytes, ...]]:
    return [(bytes([n % 251]), bytes([n % 251]) * (ANSWER - 1)) for n in range(count)]


def test_answers_wait_for_a_process_that_is_behind_and_arrive_in_order(channel: DatagramChannel) -> None:
    given = answers(500)  # several times what the socket holds
    waiting = LogSender(channel, 1)
    for each in given:
        waiting.add(each, 1)
    assert received(channel) == b"".join(map(b"".join, given))
    waiting.close()
    assert channel.dropped == 0


def test_what_is_beyond_the_bound_is_dropped_and_counted(
    channel: DatagramChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "MOST_WAITING", 300 * ANSWER)
    monkeypatch.setattr(sender, "GATHER_SECONDS", 1.0)  # none is sent before all were added
    waiting = LogSender(channel, 1)
    for each in answers(320):
        waiting.add(each, 1)
    assert channel.dropped == 20
    assert len(received(channel)) == 300 * ANSWER
    waiting.close()


def test_the_end_of_a_worker_waits_shortly_for_a_process_that_hangs(
    channel: DatagramChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "CLOSE_SECONDS", 0.2)
    monkeypatch.setattr(sender, "PATIENCE_SECONDS", 0.1)
    waiting = LogSender(channel, 1)
    for each in answers(2000):
        waiting.add(each, 1)
    waiting.close()
    arrived = len(received(channel)) // ANSWER
    assert 0 < arrived < 2000
    assert channel.dropped >= 2000 - arrived - 7  # but for those of a datagram that was on its way


def test_a_worker_that_logged_nothing_ends(channel: DatagramChannel) -> None:
    LogSender(channel, 0).close()
    assert (channel.dropped, received(channel)) == (0, b"")
