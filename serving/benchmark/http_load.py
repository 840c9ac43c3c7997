"""A closed loop over HTTP/1.1: each client keeps a connection, and sends when it has its answer."""

import selectors
import socket
import time
from collections.abc import Iterator

from protos.errors import Unavailable
from serving.benchmark.http2 import Status
from serving.benchmark.load import LoadResult, Requests, Tick

ANSWER_SECONDS = 10.0  # longest wait for any answer
READ_BYTES = 256 << 10
END_OF_HEAD = b"\r\n\r\n"


class HttpClient:
    """One connection, with one request on its way.

    Args:
        host: of the server.
        port: of the server.
        messages: Complete requests, head and body, by number.
        order: of the messages, and whether to keep each answer.
    """

    def __init__(
        self, host: str, port: int, messages: list[bytes], order: Iterator[tuple[int, bool]]
    ) -> None:
        self.socket = socket.create_connection((host, port), ANSWER_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._messages, self._order = messages, order
        self._received = b""
        self.number, self.is_kept, self.sent = 0, False, 0.0

    def send(self) -> None:
        """Send the next request."""
        self.number, self.is_kept = next(self._order)
        self.sent = time.perf_counter()
        self.socket.sendall(self._messages[self.number])

    def receive(self) -> tuple[int, bytes] | None:
        """The status and the body of the answer, once it is complete.

        Raises:
            Unavailable: the server has closed the connection, or sends what is not understood.
        """
        data = self.socket.recv(READ_BYTES)
        if not data:
            raise Unavailable("the server has closed a connection")
        received = self._received = self._received + data if self._received else data
        head = received.find(END_OF_HEAD)
        if head < 0:
            return None
        start = received[:head].lower().find(b"content-length:")
        if start < 0:
            raise Unavailable(f"an answer without content-length: {received[:head]!r}")
        length = int(received[start + 15 : received.index(b"\r\n", start)])
        if len(received) < head + 4 + length:
            return None
        self._received = b""
        return int(received[9:12]), received[head + 4 :]


def http_closed_loop(
    address: str,
    requests: Requests,
    clients: int,
    seconds: float,
    warm_up: float = 0.5,
    seed: int = 0,
    tick: Tick = lambda: None,
) -> LoadResult:
    """Run a closed loop and report the requests that were answered within the measured seconds.

    Args:
        address: of a server on this machine.
        requests: bodies of JSON, sent by each client in a random order.
        clients: number of connections.
        seconds: to measure, after the warm-up.
        warm_up: seconds of load before those.
        seed: of the orders.
        tick: called between polls.

    Raises:
        Unavailable: the server is gone.
    """
    host, _, port = address.rpartition(":")
    head = f"POST {requests.path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n"
    messages = [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in requests.messages]
    result = LoadResult(seconds, requests.queries)
    with selectors.DefaultSelector() as selector:
        opened: list[HttpClient] = []
        try:
            for slot in range(clients):
                opened.append(HttpClient(host, int(port), messages, requests.shuffled(seed * 1009 + slot)))
                selector.register(opened[-1].socket, selectors.EVENT_READ, opened[-1])
            _run(selector, opened, requests, result, time.perf_counter() + warm_up, tick)
        except OSError as error:
            raise Unavailable(f"{address}: {error.strerror or error}") from None
        finally:
            for client in opened:
                client.socket.close()
    return result


def _run(
    selector: selectors.BaseSelector,
    clients: list[HttpClient],
    requests: Requests,
    result: LoadResult,
    start: float,
    tick: Tick,
) -> None:
    stop = start + result.seconds
    for client in clients:
        client.send()
    open_requests = len(clients)
    while open_requests:
        events = selector.select(ANSWER_SECONDS)
        if not events:
            raise Unavailable(f"no answer within {ANSWER_SECONDS:g} s")
        for key, _ in events:
            client = key.data
            answer = client.receive()
            if answer is None:
                continue
            now = time.perf_counter()
            status, body = answer
            if start <= now <= stop:
                result.offered += 1
                result.add(_status(status, body), now - client.sent)
            if client.is_kept and requests.check is not None and status == 200:
                requests.check(client.number, body)
            if now < stop:
                client.send()
            else:
                open_requests -= 1
        tick()


def _status(status: int, body: bytes) -> Status:
    return Status("OK") if status == 200 else Status(f"HTTP {status}", body[:200].decode(errors="replace"))
