"""An event loop with methods that do what a test says, beside the search of a real bundle."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from twinspire.protos import retrieval_pb2 as wire
from twinspire.serving.api.retrieval_service import SERVICE, RetrievalServicer
from twinspire.serving.engine.batching import Batcher
from twinspire.serving.engine.call import Call, Method, UnaryCall
from twinspire.serving.engine.event_loop import EventLoop
from twinspire.serving.engine.limits import WorkerLimits
from twinspire.serving.engine.stream_call import StreamCall
from twinspire.serving.grpc.core import GrpcFront
from twinspire.serving.observability import layout
from twinspire.serving.observability.layout import width
from twinspire.serving.observability.metrics import SIZES
from twinspire.serving.observability.worker_metrics import Observer, SharedMetrics
from twinspire.serving.retrieval.event_reading import ResolveUsers
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.rollout.loaded_bundle import LoadedBundle, TrafficSplit
from twinspire.serving.security.auth import Guard, caller
from twinspire.serving.server import methods
from twinspire.serving.wire.converters import RequestLimits

SEARCH = "/retrieval.v1.Retrieval/Search"
SEARCH_STREAM = "/retrieval.v1.Retrieval/SearchStream"
GOOD = wire.SearchRequest(query=wire.Query(text="bavuti"), k=3)
ONE = GOOD.SerializeToString()


class Reacting:
    """What a test sees of it."""

    def __init__(self, loop: EventLoop, metrics: SharedMetrics, port: int, gate: "Gate") -> None:
        self.loop, self.metrics = loop, metrics
        self.address = f"127.0.0.1:{port}"
        self._gate = gate

    @contextmanager
    def held(self, channel: grpc.Channel) -> Iterator[None]:
        """Block the event loop until the body has ended; calls that the body sends are read after that."""
        self._gate.opened.clear()
        blocked = call(channel, "Hold").future(b"", timeout=60)
        assert self._gate.entered.wait(30)
        try:
            yield
            _await_arrival(int(self.address.rpartition(":")[2]))
        finally:
            self._gate.entered.clear()
            self._gate.opened.set()
        assert blocked.result() == b""

    def snapshot(self, key: str) -> Any:
        """What is counted under this key."""
        return self.metrics.snapshot()[key]

    def becomes(self, key: str, value: Any, seconds: float = 30.0) -> bool:
        """Whether what is counted comes to this value soon."""
        return soon(lambda: bool(self.snapshot(key) == value), seconds)

    def worked_on(self) -> float:
        """Queries that were in batches."""
        (row,) = self.metrics.read()
        return row[layout.BATCH_SIZE + width(SIZES) - 1]  # the sum, behind the buckets


class Gate:
    """A method that blocks the event loop until a test opens the gate."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()

    def hold(self, request: bytes, rpc: Call) -> bytes:
        """Wait for the test, for a minute at most."""
        self.entered.set()
        self.opened.wait(60)
        return request


def _await_arrival(port: int) -> None:
    """Wait until what clients have sent is in the sockets of a server that reads nothing."""
    before, calm = -1, 0
    while calm < 3:  # a busy machine may run the clients' threads late
        time.sleep(0.1)
        unread = _unread(port)
        calm = calm + 1 if unread == before else 0
        before = unread


def _unread(port: int) -> int:
    """Bytes in the sockets of a port that its process has not read; 0 where the system does not tell."""
    try:
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    except OSError:
        return 0
    rows = [line.split() for line in lines]
    return sum(int(row[4].partition(":")[2], 16) for row in rows if int(row[1].partition(":")[2], 16) == port)


def soon(is_so: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Whether something is so within this time."""
    until = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True


def sleep(request: bytes, rpc: Call) -> bytes:
    """Block the event loop for as many milliseconds as the request says."""
    time.sleep(int(request) / 1000)
    return request


def fail(request: bytes, rpc: Call) -> bytes:
    """Raise an exception that no handler expects, if the request says so."""
    if request == b"fail":
        raise ZeroDivisionError("the secret")
    return request


@contextmanager
def reacting(
    retriever: Retriever,
    queue: int = 256,
    batch: int = 64,
    streams: int = 64,
    window: int = 64,
    backlog: int = 1,
    resolve_users: ResolveUsers | None = None,
) -> Iterator[Reacting]:
    """Serve the bundle, and `/test/Sleep`, `/test/Hold`, `/test/Fail`, `/test/FailStream`."""
    gate = Gate()
    metrics = SharedMetrics(workers=1)
    counters = metrics.worker(0)
    lineup = TrafficSplit(LoadedBundle.of(retriever))
    servicer = RetrievalServicer(lineup, RequestLimits(), None, dict, resolve_users=resolve_users)
    served = methods(SERVICE, servicer)
    for name, behaviour, kind in (
        ("Sleep", sleep, UnaryCall),
        ("Hold", gate.hold, UnaryCall),
        ("Fail", fail, UnaryCall),
        ("FailStream", fail, StreamCall),
    ):
        served[f"/test/{name}"] = Method(f"/test/{name}", name, bytes, behaviour, kind)
    front = GrpcFront([("grpc.so_reuseport", 0)])
    loop = EventLoop(
        served,
        Batcher(counters, batch),
        Observer(counters),
        Guard(),
        caller,
        WorkerLimits(queue=queue, backlog=backlog, batch=batch, streams=streams),
        window,
        front,
    )
    port = front.listen("127.0.0.1:0")
    loop.start()
    try:
        yield Reacting(loop, metrics, port, gate)
    finally:
        loop.stop(5.0)


def call(channel: grpc.Channel, name: str) -> Any:
    """One of the test's own methods, of bytes."""
    if name.endswith("Stream"):
        return channel.stream_stream(f"/test/{name}", None, None)
    return channel.unary_unary(f"/test/{name}", None, None)
