"""The gateway's listening socket, which bounds the connections of each client."""

import socket
from typing import Any

from prometheus_client import Counter

from twinspire.serving.gateway.fairness import FairShare, cached_client_of
from twinspire.serving.rate_limit import RateLimit

CLOSED = 256  # connections over a bound that one call of `accept` closes
SAVED_SECONDS = 2.0  # a client may save up this many seconds of its rate


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
    Those in a handshake of TLS count, too.
    """

    _open: FairShare

    def limit(self, connections: FairShare, per_second: float, closed: Counter) -> None:
        """Bound the connections of each client; to be called before `accept`.

        Args:
            connections: that are open.
            per_second: new connections of one client.
            closed: counts connections that the gateway closes, by reason.
        """
        self._open, self._counter = connections, closed
        self._rate = RateLimit(per_second, SAVED_SECONDS * per_second)

    def accept(self) -> tuple[socket.socket, Any]:
        """A connection that has arrived, and the address of its client.

        Raises:
            BlockingIOError: there is none, or many were closed, and others have their turn.
        """
        for _ in range(CLOSED):
            plain, address = super().accept()
            client = cached_client_of(address[0])
            if self._rate.wait(client) > 0:
                reason = "rate"
            elif not self._open.has_room(client):
                reason = "full"
            else:
                self._rate.charge(client, 1)
                connection = AcceptedConnection(plain.family, plain.type, plain.proto, plain.detach())
                connection.count(self._open, client)
                return connection, address
            self._counter.labels(reason).inc()
            plain.close()
        raise BlockingIOError
