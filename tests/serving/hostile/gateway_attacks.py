"""The attackers of the HTTP gateway: what does not come, what is parked, and what costs much.

Each is a function of an `Attack`, as those of `attacks.py`; the rates are constants here, too.
"""

import json
import time
from collections.abc import Callable

from tests.serving.hostile.connection import Attack, Connection

TICK = 0.05  # seconds
OPENED = 20  # connections in one tick; so 400 a second
LIFETIME = 20.0  # seconds, after which a parked connection is given up for a new one
NEVER = 1 << 62  # a sequence that no catalogue reaches
SOON = 1000  # a sequence that a catalogue could reach
PART = 1 << 16  # bytes that are sent in one go
JSON = "application/json"


class HttpConnection(Connection):
    """A connection to the gateway, which counts the answers by status.

    Attributes:
        is_answered: whether an answer has begun to arrive.
    """

    is_answered = False

    def __init__(self, attack: Attack) -> None:
        super().__init__(attack, None, None)

    def _read(self, data: bytes) -> None:
        self._counts["bytes received"] += len(data)
        if data.startswith(b"HTTP/1.1 "):
            self.is_answered = True
            self._counts[f"status {data[9:12].decode('latin-1')}"] += 1


def request(path: str, body: bytes | None = None, kind: str = JSON, *headers: str) -> bytes:
    """A request; without a body, a head that announces one of 100 bytes."""
    length = 100 if body is None else len(body)
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {kind}", "Request-Timeout: 60"]
    if not headers:
        headers = (f"Content-Length: {length}",)
    return "\r\n".join([*lines, *headers, "", ""]).encode() + (body or b"")


def search(sequence: int = 0, text: str = "bavuti") -> bytes:
    """A search that waits for a sequence of the catalogue."""
    return json.dumps({"query": {"text": text}, "k": 10, "min_sequence": str(sequence)}).encode()


def open_calls(address: str, count: int, seconds: float) -> None:
    """Keep calls open for a while, so that the gateway opens all its connections to the service."""
    host, _, port = address.partition(":")
    attack = Attack(host, int(port), host, time.monotonic() + seconds, 0)
    held = [HttpConnection(attack) for _ in range(count)]
    for each in held:
        each.send(request("/v1/search", search(NEVER)))
    for _ in attack.ticks(TICK):
        pass
    for each in held:
        each.close()


# What stays open.


def slow_bodies(attack: Attack) -> None:
    """520 requests whose body does not come."""
    _hold(attack, 520, lambda number: request("/v1/search"))


def parked_searches(attack: Attack) -> None:
    """140 searches that wait for a sequence, half of them for one that never comes."""
    _hold(attack, 140, lambda number: request("/v1/search", search(SOON if number % 2 else NEVER)))


def large_parked_searches(attack: Attack) -> None:
    """Six searches of 4 MB that wait for a sequence."""
    history = ["k" * 9000] * 460  # within the bounds on strings and on a message
    body = json.dumps({"query": {"history": history}, "min_sequence": str(SOON)}).encode()
    _send(attack, 6, request("/v1/search", body))


def idle_http(attack: Attack) -> None:
    """1,100 connections that send nothing."""
    _hold(attack, 1100, lambda number: b"")


# What costs much.


def one_byte_chunks(attack: Attack) -> None:
    """Four bodies in chunks of one byte, as fast as they are taken."""
    head = request("/v1/search", b"", JSON, "Transfer-Encoding: chunked")
    whole = head + b"1\r\na\r\n" * (1 << 20)
    _send(attack, 4, whole)


def empty_features(attack: Attack) -> None:
    """Requests of 426 KB with 43,000 empty features, on four connections."""
    features: dict[str, dict[str, str]] = {f"{n:x}": {} for n in range(43_000)}
    whole = request(
        "/v1/search", json.dumps({"query": {"features": features}}, separators=(",", ":")).encode()
    )
    _send(attack, 4, whole)


def invalid_bodies(attack: Attack) -> None:
    """Bodies of 4 MB that are no JSON, on four connections."""
    whole = request("/v1/search", b'{"query": "' + b"\\n" * ((2 << 20) - 100))
    _send(attack, 4, whole)


ALL: tuple[Callable[[Attack], None], ...] = (
    slow_bodies,
    parked_searches,
    large_parked_searches,
    idle_http,
    one_byte_chunks,
    empty_features,
    invalid_bodies,
)


def _hold(attack: Attack, most: int, sent: Callable[[int], bytes]) -> None:
    """Keep connections open over which something has been sent; those that were answered are opened again."""
    held: list[HttpConnection] = []
    number = 0
    for _ in attack.ticks(TICK):
        for each in held:
            each.drain()
            if each.is_answered or time.monotonic() - each.opened > LIFETIME:
                each.close()
        held = [each for each in held if not each.closed]
        for _ in range(min(OPENED, most - len(held))):
            connection = HttpConnection(attack)
            connection.send(sent(number))
            number += 1
            if connection.closed:
                break
            held.append(connection)
        attack.counts["held at once, most"] = max(attack.counts["held at once, most"], len(held))


def _send(attack: Attack, count: int, whole: bytes) -> None:
    """Send a request on each of some connections as fast as it is taken, and again when it is answered.

    Args:
        attack: that sends.
        count: connections.
        whole: the request.
    """
    connections: list[HttpConnection | None] = [None] * count
    sent = [0] * count
    for _ in attack.ticks(0.002):
        for n in range(count):
            connection = connections[n]
            if connection is not None:
                connection.drain()
            if connection is None or connection.closed or connection.is_answered:
                if connection is not None:
                    connection.close()
                connection, sent[n] = HttpConnection(attack), 0
                connections[n] = connection
            if connection.is_blocked:
                connection.flush()
            elif sent[n] < len(whole):
                connection.send(whole[sent[n] : sent[n] + PART])
                sent[n] += PART
                attack.counts["requests"] += sent[n] >= len(whole)
            if time.monotonic() - connection.opened > LIFETIME:
                connection.close()
