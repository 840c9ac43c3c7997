"""The channel to the shadow: it holds what fits, counts what does not, and never blocks its writer."""

import mmap
import os
import random
import socket
from collections.abc import Iterator
from contextlib import closing
from functools import partial

import pytest

from tests.helpers.forking import fork
from twinspire.protos import retrieval_pb2 as wire
from twinspire.serving.datagrams import DatagramChannel
from twinspire.serving.shadow.channel import Mirrored, ShadowChannel, TrafficMirror

REQUEST = wire.SearchRequest(query=wire.Query(text="bavuti"), k=3)
RESPONSE = wire.SearchResponse(bundle_version="a" * 64).SerializeToString()


@pytest.fixture
def channel() -> Iterator[ShadowChannel]:
    with closing(ShadowChannel.create(workers=3)) as channel:
        channel.request_searches(True)
        yield channel


def test_what_is_offered_arrives_whole_and_in_order(channel: ShadowChannel) -> None:
    mirror = channel.mirror(0, share=1.0)
    mirror.send(REQUEST, RESPONSE)
    mirror.send(REQUEST.SerializeToString(), b"")
    mirror.send(b"", RESPONSE)
    assert channel.wait(0)
    assert channel.receive(2) == [
        Mirrored(REQUEST.SerializeToString(), RESPONSE),
        Mirrored(REQUEST.SerializeToString(), b""),
    ]
    assert channel.receive(2) == [Mirrored(b"", RESPONSE)]
    assert channel.receive(2) == []
    assert not channel.wait(0)
    assert channel.dropped == 0


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.1, 850, 1150), (1.0, 10_000, 10_000)])
def test_a_share_of_the_queries_is_wanted(
    channel: ShadowChannel, share: float, least: int, most: int
) -> None:
    random.seed(0)
    mirror = channel.mirror(0, share)
    assert least <= sum(mirror.sample("Search") is not None for _ in range(10_000)) <= most


def test_nothing_is_wanted_while_the_shadow_does_not_ask(channel: ShadowChannel) -> None:
    mirror = channel.mirror(0, share=1.0)
    channel.request_searches(False)
    assert not mirror.sample("Search")
    channel.request_searches(True)
    assert mirror.sample("Search")


def test_what_a_shadow_is_too_busy_for_is_dropped_and_counted(channel: ShadowChannel) -> None:
    mirror = channel.mirror(0, share=1.0)
    offered = 0
    while channel.dropped < 10:
        mirror.send(REQUEST, RESPONSE)
        offered += 1
        assert offered < 1_000_000, "there is no end to what the socket takes"
    received = len(channel.receive(1_000_000))
    assert received > 32
    assert received + channel.dropped == offered
    mirror.send(REQUEST, RESPONSE)  # and there is room again
    assert len(channel.receive(2)) == 1
    assert channel.dropped == 10


def test_what_is_too_large_is_dropped_and_the_next_is_not(channel: ShadowChannel) -> None:
    mirror = channel.mirror(1, share=1.0)
    mirror.send(REQUEST, bytes(8 << 20))
    mirror.send(REQUEST, RESPONSE)
    assert [each.response for each in channel.receive(2)] == [RESPONSE]
    assert channel.dropped == 1


def test_the_largest_that_fits_arrives_whole(channel: ShadowChannel) -> None:
    mirror, fits, too_large = channel.mirror(0, share=1.0), 0, 8 << 20
    while too_large - fits > 1:
        size = (fits + too_large) // 2
        mirror.send(b"", bytes(size))
        arrived = [len(each.response) for each in channel.receive(2)]
        assert arrived in ([], [size])
        fits, too_large = (size, too_large) if arrived else (fits, size)
    assert fits > 100_000


def test_a_shadow_that_has_gone_harms_nobody() -> None:
    channel = ShadowChannel.create(workers=1)
    mirror = channel.mirror(0, share=1.0)
    channel.close()
    mirror.send(REQUEST, RESPONSE)
    assert channel.dropped == 1


def test_a_peer_that_has_gone_harms_nobody() -> None:
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.close()
    datagrams = DatagramChannel(sender, receiver, mmap.mmap(-1, 32))
    with sender:
        TrafficMirror(datagrams, memoryview(bytearray(8)).cast("Q"), slot=1, share=1.0).send(
            REQUEST, RESPONSE
        )
    assert datagrams.dropped == 1


def test_what_several_processes_drop_is_summed(channel: ShadowChannel) -> None:
    def drop(slot: int) -> None:
        mirror = channel.mirror(slot, share=1.0)
        for _ in range(slot + 1):
            mirror.send(REQUEST, bytes(8 << 20))
        mirror.send(bytes([slot]), RESPONSE)

    children = [fork(partial(drop, slot)) for slot in range(3)]
    for pid in children:
        os.waitpid(pid, 0)
    assert channel.dropped == 6
    assert {each.request for each in channel.receive(9)} == {bytes([slot]) for slot in range(3)}


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_from_0_to_1(channel: ShadowChannel, share: float) -> None:
    with pytest.raises(ValueError, match="share: expected 0 to 1"):
        channel.mirror(0, share)


def test_there_must_be_a_slot() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        ShadowChannel.create(workers=0)
