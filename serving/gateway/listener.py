"""The gateway's listening socket, which bounds the connections of each client."""

import socket
from typing import Any

from prometheus_client import Counter

from twinspire.serving.gateway.fairness import Allowance, FairShare, cached_client_of

CLOSED = 256  # connections over a bound that one call of `accept` closes
SAVED_SECONDS = 2.0  # a client may save up this many seconds of its rate
QUEUE, MOST_COST = 16, 5.0  # waiting connections that double the cost of one, and its highest cost


class AcceptedConnection(socket.socket):
    """An accepted connection, which counts as its client's until it is closed."""

    _share: FairShare | None = None

    def count(self, share: FairShare, client: str) -> None:
        """Hold one unit of a share until the connection is closed."""
        self._share, self._client = share, client
        share.take(client)

    def close(self) -> None:
        """Close the connection, which counts no more."""
        super().close()
        share, self._share = self._share, None
        if share is not None:
            share.give_back(self._client)


class Listener(socket.socket):
    """Closes a connection at once if its client has too many, or opens them too often.

    Connections are accepted in the order in which they came, so those of one client would delay all others.
    The more of them wait, the more each one costs of its client's rate, so that fewer are accepted while the
    event loop is behind. Those in a handshake of TLS count, too.
    """

    _open: FairShare
    _waited = 0  # connections that had come before the one to be accepted

    def limit(self, connections: FairShare, per_second: float, closed: Counter) -> None:
        """Bound the connections of each client; to be called before `accept`.

        Args:
            connections: that are open.
            per_second: new connections of one client.
            closed: counts connections that the gateway closes, by reason.
        """
        self._open, self._counter = connections, closed
        self._rate = Allowance(per_second, saved_seconds=SAVED_SECONDS)

    def accept(self) -> tuple[socket.socket, Any]:
        """A connection that has arrived, and the address of its client.

        Raises:
            BlockingIOError: there is none, or many were closed, and others have their turn.
        """
        for _ in range(CLOSED):
            try:
                plain, address = super().accept()
            except BlockingIOError:
                self._waited = 0
                raise
            self._waited += 1
            client = cached_client_of(address[0])
            if self._rate.wait(client) > 0:
                reason = "rate"
            elif not self._open.has_room(client):
                reason = "full"
            else:
                self._rate.charge(client, min(MOST_COST, 1 + (self._waited - 1) / QUEUE))
                connection = AcceptedConnection(plain.family, plain.type, plain.proto, plain.detach())
                connection.count(self._open, client)
                return connection, address
            self._counter.labels(reason).inc()
            plain.close()
        raise BlockingIOError
