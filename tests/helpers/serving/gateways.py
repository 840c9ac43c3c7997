"""Gateways in this process, a service whose answers a test decides, and plain HTTP to ask with."""

import asyncio
import http.client
import json
import queue
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
from google.protobuf import json_format
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.helpers.serving.grpc_servers import grpc_server
from tests.helpers.waiting import wait_until
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos import retrieval_pb2_grpc
from twinspire.serving.gateway import process
from twinspire.serving.gateway.messages import is_map
from twinspire.serving.gateway.options import GatewayOptions

JSON = {"content-type": "application/json"}
OTHER = "127.0.1.1"  # the address of another client than the usual one
START = b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def whole(body: bytes, *headers: str, path: str = "/v1/search") -> bytes:
    """A request."""
    fields = "".join(f"{each}\r\n" for each in (f"Content-Length: {len(body)}", *headers))
    return START.replace(b"/v1/search", path.encode()) + fields.encode() + b"\r\n" + body


@dataclass(frozen=True)
class Answer:
    """An answer of HTTP."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> tuple[int, str, str]:
        """Status, code and message of an error."""
        assert list(self.document) == ["error"], self.document
        return self.status, self.document["error"]["code"], self.document["error"]["message"]


@dataclass
class RunningGateway:
    """A gateway, and the server that it runs in."""

    port: int
    server: process.GatewayServer
    loop: asyncio.AbstractEventLoop
    thread: threading.Thread

    def scrape(self) -> dict[tuple[str, ...], float]:
        """Its metrics: name and values of labels -> value."""
        return scraped(generate_latest(self.server.gateway.metrics.registry).decode())

    @contextmanager
    def connect(self, path: str = "", body: Any = None) -> Iterator[http.client.HTTPConnection]:
        """A connection to it, over which a request has been sent if there is a path."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            if path:
                connection.request("POST", path, json.dumps(body).encode(), JSON)
            yield connection
        finally:
            connection.close()

    @contextmanager
    def send(self, data: bytes = b"", source: str = "127.0.0.1") -> Iterator[socket.socket]:
        """A connection from an address to it, over which bytes have been sent."""
        with socket.create_connection(("127.0.0.1", self.port), 30, (source, 0)) as connection:
            connection.sendall(data)
            yield connection

    @contextmanager
    def opened(self, count: int, data: bytes = b"") -> Iterator[list[socket.socket]]:
        """As `send`, of several connections of another client."""
        with ExitStack() as stack:
            yield [stack.enter_context(self.send(data, OTHER)) for _ in range(count)]

    def ask(
        self,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        verb: str | None = None,
    ) -> Answer:
        """The answer to a request; a body that is no bytes is sent as JSON."""
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        verb = verb or ("GET" if body is None else "POST")
        with self.connect() as connection:
            connection.request(verb, path, content, JSON | (headers or {}))
            return read(connection)

    def stop(self) -> None:
        """Stop as SIGTERM does, without waiting."""
        self.loop.call_soon_threadsafe(self.server.stop)


def scraped(text: str) -> dict[tuple[str, ...], float]:
    """Metrics as Prometheus reads them: name and values of labels -> value."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def read(connection: http.client.HTTPConnection) -> Answer:
    response = connection.getresponse()
    return Answer(
        response.status, {key.lower(): value for key, value in response.getheaders()}, response.read()
    )


def receive_answer(connection: socket.socket) -> bytes:
    """The next answer of a connection: its head, and the body of which the head says how long it is."""
    found = bytearray()
    while (end := found.find(b"\r\n\r\n")) < 0 or len(found) < end + 4 + _length(bytes(found[:end])):
        part = connection.recv(1 << 16)
        if not part:
            break
        found += part
    return bytes(found)


def _length(head: bytes) -> int:
    found = re.search(rb"content-length: (\d+)", head)
    return int(found[1]) if found else 0


def is_ended(connection: socket.socket) -> bool:
    """Whether the gateway ends a connection instead of sending more; waits for either."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


@contextmanager
def gateway(address: str, **options: Any) -> Iterator[RunningGateway]:
    """A gateway of a service, on a free port; `options` are fields of `GatewayOptions`."""
    given = GatewayOptions(**{"address": address, "port": 0, "grace": 5.0, **options})
    loops: queue.SimpleQueue[asyncio.AbstractEventLoop] = queue.SimpleQueue()
    is_ready = threading.Event()
    with process.listen(given) as listener:
        port = listener.getsockname()[1]
        server = process.make_server(given, is_ready.set)

        async def serve() -> None:
            loops.put(asyncio.get_running_loop())
            await server.serve([listener])

        thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
        thread.start()
        running = RunningGateway(port, server, loops.get(), thread)
        try:
            assert is_ready.wait(30), "the gateway does not start"
            yield running
        finally:
            if thread.is_alive():
                running.stop()
                thread.join(30)
            assert not thread.is_alive(), "the gateway does not stop"


@dataclass
class Decided(retrieval_pb2_grpc.RetrievalServicer):
    """A service of gRPC whose answers a test decides.

    Args:
        code: of every answer; OK answers.
        text: of the status.
        trailers: of every answer.
        released: set to let answers go.
    """

    code: grpc.StatusCode = grpc.StatusCode.OK
    text: str = ""
    trailers: tuple[tuple[str, str], ...] = ()
    released: threading.Event = field(default_factory=threading.Event)
    seen: "queue.SimpleQueue[dict[str, Any]]" = field(default_factory=queue.SimpleQueue)
    ended: "queue.SimpleQueue[str]" = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        self.released.set()

    def _begin(self, context: Any) -> None:
        metadata = {key: value for key, value in context.invocation_metadata() if key != "user-agent"}
        self.seen.put({**metadata, "seconds": context.time_remaining()})
        if self.trailers:
            context.set_trailing_metadata(self.trailers)
        if self.code is not grpc.StatusCode.OK:
            context.abort(self.code, self.text)

    def Search(self, request: wire.SearchRequest, context: Any) -> wire.SearchResponse:
        context.add_callback(lambda: self.ended.put("Search"))
        self._begin(context)
        wait_until(lambda: self.released.is_set() or not context.is_active())
        return wire.SearchResponse(hits=[wire.Hit(id=request.query.text)])


@contextmanager
def decided(**fields: Any) -> Iterator[tuple[Decided, str]]:
    """A service whose answers a test decides, and its address."""
    servicer = Decided(**fields)
    # As many calls of a connection as of the service's own (`serve --calls`).
    bounds = [("grpc.so_reuseport", 0), ("grpc.max_concurrent_streams", 16)]
    add = partial(retrieval_pb2_grpc.add_RetrievalServicer_to_server, servicer)
    with grpc_server(add, 16, bounds) as address:
        try:
            yield servicer, address
        finally:
            servicer.released.set()


@contextmanager
def decided_gateway(**options: Any) -> Iterator[tuple[Decided, RunningGateway]]:
    """A service whose answers a test decides, and a gateway of it with some options."""
    with decided() as (service, address), gateway(address, **options) as running:
        yield service, running


def _as_protobuf(message: Any) -> Any:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def as_json(message: Any) -> Any:
    """As protobuf writes a message, with integers as numbers and JSON as an object."""
    return _changed(_as_protobuf(message), message.DESCRIPTOR)


def _changed(given: Any, descriptor: Any) -> Any:
    if not isinstance(given, dict):
        return given
    found = {}
    for name, value in given.items():
        field = descriptor.fields_by_name[name]
        kind = field.message_type
        if is_map(field):
            inner = kind.fields_by_name["value"]
            value = {key: _value(each, inner) for key, each in value.items()}
        elif field.is_repeated:
            value = [_value(each, field) for each in value]
        else:
            value = _value(value, field)
        found[name.removesuffix("_json")] = value
    return found


def _value(value: Any, field: Any) -> Any:
    if field.message_type is not None:
        return _changed(value, field.message_type)
    if field.name.endswith("_json"):
        return json.loads(value or "{}")
    return int(value) if field.type in (field.TYPE_INT64, field.TYPE_UINT64) else value
