"""Closed loop: each client asks again once it is answered; the load never exceeds what the server bears."""

import random
import time
from collections.abc import Callable

from serving.load.connection import Call, Connection
from serving.load.frames import Status
from serving.load.loop import Loop
from serving.load.measured import CHECKED, Measured, Requests

TIMEOUT_MS = 10_000


def run(
    address: str,
    requests: Requests,
    clients: int,
    seconds: float,
    warm_up: float = 0.5,
    seed: int = 0,
    tick: Callable[[float], None] | None = None,
) -> Measured:
    """Ask for a while and report what came back within the seconds that are measured.

    Args:
        address: of a server on this machine.
        requests: each client sends them in an order of its own, over and over.
        clients: each a connection of its own, with one call on its way.
        seconds: that are measured.
        warm_up: seconds before those.
        seed: of the orders.
        tick: called about every second with the seconds that have passed since the last time.

    Raises:
        Unavailable: the server is gone.
    """
    client = _Clients(requests, clients, seconds, seed)
    with Loop(address, clients, client.finished) as client.loop:
        start = client.start = time.perf_counter() + warm_up
        stop = client.stop = start + seconds
        for slot in range(clients):
            client.ask(slot)
        told = 0.0
        while (now := time.perf_counter()) < stop:
            client.loop.turn(min(0.1, stop - now))
            if tick and now - start > told + 1:
                tick(now - start - told)
                told = now - start
        client.loop.drain()
    return client.measured


class _Clients:
    """What all clients do when they are answered."""

    loop: Loop
    start = stop = 0.0

    def __init__(self, requests: Requests, clients: int, seconds: float, seed: int) -> None:
        self.measured = Measured(seconds, requests.queries)
        self._requests = requests
        numbers = range(len(requests.messages))
        self._orders = [random.Random(seed * 1009 + n).sample(numbers, len(numbers)) for n in range(clients)]
        self._asked = [0] * clients
        self._parts: list[list[bytes]] = [[] for _ in range(clients)]

    def ask(self, slot: int) -> None:
        """Send the next request of a client."""
        connection = self.loop.connection(slot)
        order, asked = self._orders[slot], self._asked[slot]
        self._asked[slot] = asked + 1
        number = order[asked % len(order)]
        looked_at = self._requests.check is not None and asked % CHECKED == 0
        call = Call(number, time.perf_counter(), self._parts[slot].append if looked_at else None)
        connection.request(
            self.loop.head(self._requests.path, TIMEOUT_MS), self._requests.messages[number], call
        )
        connection.flush()

    def finished(self, connection: Connection, call: Call, status: Status) -> None:
        """Note what came back, and ask again."""
        if self.start <= connection.now <= self.stop:
            self.measured.offered += 1
            self.measured.add(status, connection.now - call.started)
        if call.reader is not None and self._requests.check is not None:
            parts = self._parts[connection.slot]
            if status.code == "OK":
                self._requests.check(call.number, b"".join(parts))
            parts.clear()
        if connection.now < self.stop:
            self.ask(connection.slot)
