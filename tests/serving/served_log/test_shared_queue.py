"""What workers send to the process of the log while that process is behind, and across their ends."""

import os
import random
import signal
from collections.abc import Iterator
from contextlib import closing

import pytest

from twinspire.serving.served_log.shared_queue import HEAD, SharedQueues

SIZE = 4096  # bytes of a queue


@pytest.fixture
def queues() -> Iterator[SharedQueues]:
    with closing(SharedQueues(2, SIZE)) as queues:
        yield queues


def contents(seed: int, count: int) -> Iterator[bytes]:
    chance = random.Random(seed)
    for _ in range(count):
        yield chance.randbytes(chance.choice([0, 1, 7, 8, 9, chance.randrange(SIZE // 4)]))


@pytest.mark.parametrize("seed", range(5))
def test_contents_arrive_whole_and_in_order_through_many_rounds_of_the_memory(
    queues: SharedQueues, seed: int
) -> None:
    chance = random.Random(seed)
    put: list[bytes] = []
    taken: list[bytes] = []
    dropped = 0
    for each in contents(seed, 3000):
        queues.put(0, each)
        if queues.dropped > dropped:
            dropped = queues.dropped
        else:
            put.append(each)
        if chance.random() < 0.3:
            taken += queues.take(chance.randrange(1, 20))
    taken += queues.take(SIZE)
    assert taken == put
    assert len(put) > 1000
    assert dropped > 0
    assert not queues.wait(0.0)


def test_a_queue_holds_its_size_and_counts_what_it_drops(queues: SharedQueues) -> None:
    for _ in range(5):
        queues.put(1, bytes(SIZE // 4 - 8), count=3)
    queues.fail(0)
    assert (queues.dropped, queues.failed) == (3, 1)
    assert len(queues.take(10)) == 4
    queues.put(1, bytes(SIZE), count=2)  # larger than the queue
    assert queues.dropped == 5
    queues.put(1, b"one more")
    assert queues.take(10) == [b"one more"]


@pytest.mark.parametrize("before", range(0, 3 * SIZE, 104))
def test_a_queue_whose_reader_keeps_up_uses_and_holds_a_quarter_of_its_memory(
    queues: SharedQueues, before: int
) -> None:
    for n in range(before // 104):
        queues.put(0, bytes([n % 255 + 1]) * 96)
        assert queues.take(9) == [bytes([n % 255 + 1]) * 96]
    assert not any(queues._queues[0]._memory[HEAD + SIZE // 4 + 112 :])
    for _ in range(SIZE // 4 // 104):
        queues.put(0, bytes(96))
    assert queues.dropped == 0


def test_what_a_killed_worker_has_sent_is_not_lost_and_its_successor_goes_on(queues: SharedQueues) -> None:
    for content, ending in ((b"first", signal.SIGKILL), (b"second", signal.SIGTERM)):
        child = os.fork()
        if not child:
            try:
                queues.put(0, content)
                os.kill(os.getpid(), ending)
            finally:
                os._exit(1)
        os.waitpid(child, 0)
    queues.put(1, b"of another worker")
    assert queues.wait(1.0)
    assert queues.take(9) == [b"first", b"second", b"of another worker"]


def test_a_reader_of_another_process_gets_what_is_written_meanwhile(queues: SharedQueues) -> None:
    count = 100_000
    child = os.fork()
    if not child:
        try:
            for n in range(count):
                before = queues.dropped
                queues.put(0, n.to_bytes(4, "little") * (n % 9))
                while queues.dropped > before:  # until there is room
                    before = queues.dropped
                    queues.put(0, n.to_bytes(4, "little") * (n % 9))
        finally:
            os._exit(0)
    taken: list[bytes] = []
    while len(taken) < count and queues.wait(10.0):
        taken += queues.take(50)
    os.waitpid(child, 0)
    assert taken == [n.to_bytes(4, "little") * (n % 9) for n in range(count)]
