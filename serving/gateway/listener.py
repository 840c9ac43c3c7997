"""The gateway's listening socket, which bounds how often each client connects."""

import asyncio
import errno
import logging
import math
import socket
from collections import Counter
from typing import Any

from serving.gateway.fairness import Allowance, cached_client_of

log = logging.getLogger(__name__)

CLOSED = 256  # connections over the rate that are closed in one go
SAVED_SECONDS = 2.0  # of the rate
TICK_SECONDS = 0.05  # between two looks at the event loop
BEHIND_SECONDS = 0.02  # that the loop is late, from which on the rate falls
FALL, RISE = 0.8, 1.05  # of the rate, each tick
LEAST_PER_SECOND = 10.0  # that the rate does not fall below
ACCEPT_LOG_SECONDS = 1.0  # between two lines about connections that cannot be accepted


class ConnectionRate:
    """Connections a second that each client may open: fewer while the event loop is behind with its work.

    The rate is the same for all clients, so a client that opens few is refused last: the shares are max-min
    fair. It falls by a factor and rises slowly, as the windows of TCP do (Chiu and Jain, "Analysis of the
    Increase and Decrease Algorithms for Congestion Avoidance in Computer Networks", 1989).

    Args:
        most: connections a second of one client.
        loop: that accepts them.
    """

    def __init__(self, most: float, loop: asyncio.AbstractEventLoop) -> None:
        self._most, self._loop = most, loop
        self._allowance = Allowance(most, loop.time, SAVED_SECONDS)
        self._is_watching = False

    @property
    def per_second(self) -> float:
        """The rate now."""
        return self._allowance.per_second

    def take(self, client: str) -> bool:
        """Whether a client may open a connection, which is counted."""
        if not self._is_watching:
            self._is_watching = True
            self._look_later()
        if self._allowance.wait(client) > 0:
            return False
        self._allowance.charge(client, 1)
        return True

    def _look_later(self) -> None:
        self._loop.call_later(TICK_SECONDS, self._look, self._loop.time() + TICK_SECONDS)

    def _look(self, due: float) -> None:
        if self._loop.time() - due > BEHIND_SECONDS:
            self._allowance.per_second = max(min(LEAST_PER_SECOND, self._most), self.per_second * FALL)
        else:
            self._allowance.per_second = min(self._most, self.per_second * RISE)
        self._is_watching = self.per_second < self._most
        if self._is_watching:
            self._look_later()


class Listener(socket.socket):
    """Closes connections of a client that opens too many, before they cost more than their end.

    Connections are accepted in the order in which they came, so those of one client would delay all others.
    """

    _rate: ConnectionRate | None = None
    _closed: Counter[str]

    def limit(self, rate: ConnectionRate, closed: Counter[str]) -> None:
        """Bound the connections of each client.

        Args:
            rate: at which clients may connect.
            closed: counts connections that the gateway closes, by reason.
        """
        self._rate, self._closed = rate, closed

    def accept(self) -> tuple[socket.socket, Any]:
        """A connection that has arrived, and the address of its client.

        Raises:
            BlockingIOError: there is none, or many were closed, and others have their turn.
        """
        for _ in range(CLOSED):
            connection, address = super().accept()
            if self._rate is None or self._rate.take(cached_client_of(address[0])):
                return connection, address
            self._closed["rate"] += 1
            connection.close()
        raise BlockingIOError


class AcceptErrors:
    """Handles the exceptions of an event loop: one that comes again and again is logged once a second.

    When the process has no descriptor left, asyncio reports each attempt to accept a connection.
    """

    def __init__(self) -> None:
        self._logged_at, self._count = -math.inf, 0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log what a callback of the loop has raised."""
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)):
            loop.default_exception_handler(context)
            return
        self._count += 1
        if loop.time() - self._logged_at >= ACCEPT_LOG_SECONDS:
            log.error("connections cannot be accepted: %s (%d times)", error.strerror, self._count)
            self._logged_at, self._count = loop.time(), 0
