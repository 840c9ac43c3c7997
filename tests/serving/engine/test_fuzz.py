"""100,000 messages and 10,000 frames that nobody should send, to a server that must bear them."""

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import psutil
import pytest

from tests.helpers.serving import http2 as frames
from tests.helpers.serving.fuzzed_frames import attack
from tests.helpers.serving.fuzzed_messages import messages
from tests.helpers.serving.http2 import Status
from tests.helpers.serving.raw import Raw
from tests.helpers.serving.reacting import soon
from tests.serving.conftest import ROOT
from twinspire.protos import retrieval_pb2 as wire
from twinspire.serving.client import RetrievalClient
from twinspire.serving.engine.limits import WorkerLimits

pytestmark = [pytest.mark.exhaustive, pytest.mark.quiet]

ROUNDS = 3
MESSAGES, FRAMES = 34_000, 3_400  # in each of them
TOGETHER, CONNECTIONS = 50, 4
# What may become of a message; INTERNAL only where gRPC itself says so, of what is no message at all.
CODES = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED", "INTERNAL"}
KEEPALIVE_SECONDS = WorkerLimits().keepalive_seconds
MEBIBYTE = 1 << 20


class Lone:
    """A server in a process of its own."""

    def __init__(self, bundle: Path, log: Path) -> None:
        self.log = log
        with log.open("w") as errors:
            self._program = subprocess.Popen(
                [sys.executable, "-m", "tests.helpers.serving.lone", str(bundle)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
                env={**os.environ, "GRPC_VERBOSITY": "NONE"},
            )
        assert self._program.stdout is not None
        self.address = f"127.0.0.1:{self._program.stdout.readline().strip()}"
        self.process = psutil.Process(self._program.pid)

    def stop(self) -> int:
        self._program.communicate(timeout=20)
        return self._program.returncode


@pytest.fixture(scope="module")
def lone(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lone]:
    lone = Lone(plain, tmp_path_factory.mktemp("lone") / "log")
    yield lone
    if lone.process.is_running():
        lone.process.kill()
        lone.stop()


def send_messages(address: str, rng: random.Random, count: int) -> Counter[Status]:
    """Send so many of them, some together, and see what becomes of each."""
    seen: Counter[Status] = Counter()
    sent = messages(rng, count)
    while seen.total() < count:
        with ExitStack() as stack:
            connections = [stack.enter_context(Raw(address)) for _ in range(CONNECTIONS)]
            for _ in range(20):
                calls = [
                    (raw, raw.ask_framed(*each)) for raw in connections for each in islice(sent, TOGETHER)
                ]
                for raw in connections:
                    raw.flush()
                seen.update(raw.status(stream) for raw, stream in calls)
    return seen


def send_frames(address: str, rng: random.Random, count: int) -> None:
    """Attack on one connection after the other; what has been begun is left as it is."""
    while count > 0:
        parts = attack(rng)
        count -= len(parts) - 1
        with Raw(address, settings=None) as raw:
            raw.send(*parts)
            raw.read(0.002)


def state(lone: Lone) -> tuple[int, int, int]:
    """Files, threads and resident bytes, once connections are gone."""
    files = lone.process.num_fds()
    assert soon(lambda: not lone.process.net_connections()[1:], 10)
    return min(files, lone.process.num_fds()), lone.process.num_threads(), lone.process.memory_info().rss


def is_well(lone: Lone) -> bool:
    """Whether it answers as ever, on an old connection and on a new one."""
    with RetrievalClient(lone.address) as client, Raw(lone.address) as raw:
        hits = client.search("bavuti xelike mopy", k=5).hits
        request = wire.SearchRequest(query={"text": "bavuti xelike mopy"}, k=5)
        status = raw.status(raw.ask("/retrieval.v1.Retrieval/Search", request.SerializeToString()))
        return len(hits) == 5 and status.code == "OK"


@pytest.mark.timeout(300)
def test_nothing_that_is_sent_does_harm(lone: Lone) -> None:
    assert is_well(lone)
    states = []
    for seed in range(ROUNDS):
        rng = random.Random(seed)
        with Raw(lone.address) as old:
            # A connection without a call would be closed after a while.
            assert old.status(old.ask("/grpc.health.v1.Health/Check", b"")).code == "OK"
            seen = send_messages(lone.address, rng, MESSAGES)
            assert sum(seen.values()) == MESSAGES
            assert {status.code for status in seen} <= CODES, seen
            assert not [status for status in seen if "incident" in status.message]
            for code in ("OK", "INVALID_ARGUMENT"):  # they are neither all right nor all rubbish
                assert sum(seen[status] for status in seen if status.code == code) > MESSAGES / 5
            send_frames(lone.address, rng, FRAMES)
            stream = old.begin("/retrieval.v1.Retrieval/SearchStream")
            old.send(frames.frame(frames.DATA, frames.END_STREAM, stream))
            assert old.status(stream).code == "OK"
        assert is_well(lone)
        states.append(state(lone))
    _, (files, threads, memory), (files_later, threads_later, memory_later) = states  # the first warms up
    # gRPC holds a socket that was reset while it did not read from it until the next keepalive ping.
    assert soon(lambda: state(lone)[0] <= files + 2, KEEPALIVE_SECONDS + 30), (files, files_later)
    assert threads_later <= threads + 2
    assert memory_later <= memory + 8 * MEBIBYTE  # 250 bytes for a message
    assert lone.stop() == 0
    assert lone.log.read_text() == ""
