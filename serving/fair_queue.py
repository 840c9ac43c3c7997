"""Clients, the time that each has used, and queues whose next item is of the client that has used least.

Cost is counted in processor seconds, so fairness does not depend on the processor. The
order is that of start-time fair queueing (Goyal, Vin and Cheng, 1996): a client that had nothing in the queue
starts at the time used by those that were served last. So it does not wait behind the backlog of others, and
saves up no time while it is idle. That alone would let clients that come anew, one after the other, keep
those waiting that have used a little more: each would start at the same time. So this time also advances by
the cost of clients that leave, divided by the number of clients, as in the fluid model of fair queueing
(Parekh and Gallager, 1993). All queues of an event loop may share its `Clients`.
"""

import heapq
from collections import Counter, deque
from collections.abc import Sequence
from typing import Generic, TypeVar

from twinspire.serving.address import client_of_peer

T = TypeVar("T")

RIVALS_NS = 1_000_000_000  # after the last change of calling client, how long there are rivals
MAX_IDLE = 4096  # clients that are remembered without work


class Client:
    """One client of a service: the holder of a token, or without one an address.

    Args:
        name: of the token; or the address, of IPv6 its first 64 bits.

    Attributes:
        used: processor seconds.
        waiting: its calls and queries that wait.
    """

    __slots__ = ("name", "used", "waiting")

    def __init__(self, name: str) -> None:
        self.name = name
        self.used = 0.0
        self.waiting = 0


NOBODY = Client("")  # of jobs without a call


class Clients:
    """The clients of one process; for the event loop's thread.

    Attributes:
        active: number of clients for whom something waits.
        lines: clients with items in queues, and the number of those queues.
        served: seconds at which a client starts that has no items in queues.
        have_rivals: whether several clients have called lately.
    """

    def __init__(self) -> None:
        self.active = 0
        self.lines: Counter[Client] = Counter()
        self.served = 0.0
        self.have_rivals = False
        self._last, self._rivals_until = NOBODY, 0  # the client of the last call; nanoseconds
        self._by_name: dict[str, Client] = {}
        self._most = MAX_IDLE  # names at which some are forgotten

    def of(self, connection: bytes, token_name: str | None) -> Client:
        """The client that makes a call.

        Args:
            connection: its address and port, as gRPC writes them.
            token_name: of the token that it sent, if there is one.
        """
        if token_name is not None:
            return self.named(token_name)
        return self.named(client_of_peer(connection.decode("ascii", "replace")))

    def named(self, name: str) -> Client:
        """The client with a name."""
        return self._by_name.get(name) or self._new(name)

    def wait(self, client: Client, count: int) -> None:
        """Calls or queries of a client begin to wait; `leave` follows."""
        if not client.waiting:
            self.active += 1
        client.waiting += count

    def leave(self, client: Client, count: int) -> None:
        """Calls or queries of a client wait no longer."""
        client.waiting -= count
        if not client.waiting:
            self.active -= 1

    def charge(self, client: Client, seconds: float) -> None:
        """Count what an item that was taken from a queue has cost its client."""
        client.used += seconds
        if client not in self.lines:
            self.served += seconds / (len(self.lines) + 1)

    def is_below_share(self, client: Client, room: int, count: int = 1) -> bool:
        """Whether a client may have `count` more waiting, since others take more than their share of `room`.

        It is False for a client without rivals, whose only bound is the room.
        """
        rivals = self.active - (client.waiting > 0)
        return rivals > 0 and (client.waiting + count) * (rivals + 1) <= room

    def called(self, client: Client, now: int) -> None:
        """A call of a client has arrived, at a time in nanoseconds."""
        if client is not self._last:
            self.have_rivals = self._last is not NOBODY
            self._last, self._rivals_until = client, now + RIVALS_NS
        elif self.have_rivals and now > self._rivals_until:
            self.have_rivals = False

    def is_ahead(self, client: Client, seconds: float) -> bool:
        """Whether a client has used more time than its rivals, by more than `seconds`."""
        return self.have_rivals and client.used > self.served + seconds

    def _new(self, name: str) -> Client:
        if len(self._by_name) >= self._most:  # those that have used more must not be forgotten
            kept, idle = [], []
            for each in self._by_name.values():
                if each.waiting or each in self.lines:
                    kept.append(each)
                elif each.used > self.served:
                    idle.append(each)
            kept += sorted(idle, key=lambda each: -each.used)[: MAX_IDLE // 2]
            self._by_name = {each.name: each for each in kept}
            self._most = max(MAX_IDLE, 2 * len(kept))  # copying is rare
        client = self._by_name[name] = Client(name)
        return client


class FairQueue(Generic[T]):
    """A line of items for each client; the next item is of the client that has used least time.

    Taking an item costs O(log n) of the n clients with items.

    Args:
        clients: of the process.
    """

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._size = 0
        self._lines: dict[Client, deque[T]] = {}
        self._order: list[tuple[float, int, Client]] = []  # a heap: time used at least, and a running number
        self._number = 0

    def __len__(self) -> int:
        return self._size

    @property
    def clients(self) -> int:
        """Number of clients that have items."""
        return len(self._lines)

    @property
    def first_client(self) -> Client:
        """The client of the next item; the queue must not be empty."""
        if len(self._lines) == 1:
            return next(iter(self._lines))
        while True:
            used, _, client = self._order[0]
            if client not in self._lines:
                heapq.heappop(self._order)
            elif used < client.used:  # it has used more since
                heapq.heapreplace(self._order, self._entry(client))
            else:
                return client

    def line(self, client: Client) -> Sequence[T]:
        """The items of a client, oldest first."""
        return self._lines.get(client) or ()

    def add(self, client: Client, item: T) -> None:
        """Add an item to the line of its client."""
        line = self._lines.get(client)
        if line is None:
            client.used = max(client.used, self._clients.served)
            line = self._lines[client] = deque()
            self._clients.lines[client] += 1
            if len(self._order) > 2 * len(self._lines) + 8:  # clients whose lines have ended
                self._order = [self._entry(each) for each in self._lines]
                heapq.heapify(self._order)
            else:
                heapq.heappush(self._order, self._entry(client))
        line.append(item)
        self._size += 1

    def take(self) -> T:
        """Remove the next item."""
        client = self.first_client
        self._clients.served = max(self._clients.served, client.used)
        return self._remove(client)

    def put_back(self, client: Client, item: T) -> None:
        """Put an item that has been taken before the others of its client."""
        self.add(client, item)
        self._lines[client].rotate()

    def shed(self) -> T:
        """Remove the oldest item of the client for whom most waits."""
        return self._remove(max(self._lines, key=lambda each: each.waiting))

    def _remove(self, client: Client) -> T:
        line = self._lines[client]
        item = line.popleft()
        if not line:
            del self._lines[client]
            self._clients.lines[client] -= 1
            if not self._clients.lines[client]:
                del self._clients.lines[client]
        self._size -= 1
        return item

    def _entry(self, client: Client) -> tuple[float, int, Client]:
        self._number += 1
        return client.used, self._number, client
