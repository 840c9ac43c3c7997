"""The gateway's listening socket, which bounds how often each client connects."""

import asyncio
import errno
import logging
import math
import socket
from typing import Any

from prometheus_client import Counter

from twinspire.serving.gateway.fairness import Allowance, cached_client_of

log = logging.getLogger(__name__)

CLOSED = 256  # connections over the rate that one call of `accept` closes
SAVED_SECONDS = 2.0  # a client may save up this many seconds of its rate
TICK_SECONDS = 0.05  # between two changes of the rate
BEHIND_SECONDS = 0.02  # a timer that is later than this means that the event loop is behind
FALL, RISE = 0.8, 1.05  # factors on the rate, each tick
LEAST_SHARE = 0.2  # of the highest rate; the rate never falls below it
ACCEPT_LOG_SECONDS = 1.0  # between two lines about connections that cannot be accepted


class ConnectionRate:
    """Connections a second that each client may open: fewer while the event loop is behind with its work.

    The rate falls faster than it rises. It is the same for all clients, so those that open few connections
    are refused last.

    Args:
        most: connections a second of one client.
        loop: that accepts them.
    """

    def __init__(self, most: float, loop: asyncio.AbstractEventLoop) -> None:
        self._most, self._loop = most, loop
        self._allowance = Allowance(most, loop.time, SAVED_SECONDS)
        self._has_timer = False

    @property
    def per_second(self) -> float:
        """The rate now."""
        return self._allowance.per_second

    def take(self, client: str) -> bool:
        """Whether a client may open a connection, which is counted."""
        if not self._has_timer:
            self._has_timer = True
            self._adjust_later()
        if self._allowance.wait(client) > 0:
            return False
        self._allowance.charge(client, 1)
        return True

    def _adjust_later(self) -> None:
        self._loop.call_later(TICK_SECONDS, self._adjust, self._loop.time() + TICK_SECONDS)

    def _adjust(self, due: float) -> None:
        if self._loop.time() - due > BEHIND_SECONDS:
            self._allowance.per_second = max(LEAST_SHARE * self._most, self.per_second * FALL)
        else:
            self._allowance.per_second = min(self._most, self.per_second * RISE)
        self._has_timer = self.per_second < self._most
        if self._has_timer:
            self._adjust_later()


class Listener(socket.socket):
    """Closes connections of a client that opens too many as soon as they are accepted.

    Connections are accepted in the order in which they came, so those of one client would delay all others.
    """

    _rate: ConnectionRate | None = None
    _closed: Counter

    def limit(self, rate: ConnectionRate, closed: Counter) -> None:
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
            self._closed.labels("rate").inc()
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
