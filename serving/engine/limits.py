"""Bounds of a worker; each is a flag of `python -m twinspire.serving serve`."""

from dataclasses import dataclass

from twinspire.serving.flag_types import check_positive, option

LONGEST_SECONDS = (2**31 - 1) // 1000  # gRPC holds milliseconds in 32 bits: 24 days
OTHER_FILES = 256  # descriptors of a worker besides its connections: libraries, models, logs, pipes, sockets


@dataclass(frozen=True)
class WorkerLimits:
    """How much a worker accepts at once.

    Raises:
        ValueError: a bound is below 1.
    """

    queue: int = option(512, "queries that may wait for long; in an overload a batch and a half")
    backlog: int = option(2048, "queries that may wait for a moment, after a pause of the machine")
    batch: int = option(32, "queries that are answered together")
    streams: int = option(64, "streams that may be open; an idle one is ended where another needs room")
    watches: int = option(4, "Health/Watch calls of one connection that may be open")
    connections: int = option(
        1024,
        "connections that may be open; from 3/4 of them on the least used ones of addresses with "
        "more than their share are closed",
    )
    connections_per_address: int = option(
        128, "connections of one address; the least used are closed beyond. Raise it behind a proxy"
    )
    calls: int = option(16, "calls of one connection that may be open at once")
    first_call_seconds: int = option(10, "seconds after which a connection without a call is closed")
    idle_seconds: int = option(300, "seconds without an open call after which a connection is closed")
    age_seconds: int = option(3600, "seconds after which a client is asked to connect anew; open calls go on")
    keepalive_seconds: int = option(30, "seconds between pings that find connections whose client has gone")
    unsent_bytes: int = option(
        64 << 20, "bytes of unread answers of more than 16 KiB each; streams are not included"
    )
    connection_unsent_bytes: int = option(
        16 << 20, "bytes of such answers on one connection; beyond, large requests are refused"
    )

    def __post_init__(self) -> None:
        check_positive(self)
        for name in ("first_call_seconds", "idle_seconds", "age_seconds", "keepalive_seconds"):
            if getattr(self, name) > LONGEST_SECONDS:
                raise ValueError(f"{name}: expected at most {LONGEST_SECONDS}, got {getattr(self, name)}")

    @property
    def room(self) -> int:
        """Queries that may wait while there is no overload."""
        return max(self.queue, self.backlog)

    @property
    def overload_queue(self) -> int:
        """Queries that may wait in an overload: one batch, and half a batch that arrives meanwhile."""
        return min(self.queue, self.batch + self.batch // 2)

    @property
    def fair_share(self) -> int:
        """Calls that one connection may add to the queue between two batches of an overload.

        With this share, the fewest connections that can fill the queue still bring a whole batch, and a
        connection with more calls than others gets no larger part of it.
        """
        return max(1, -(-self.batch * self.calls // self.queue))
