"""Bounds of a request and of a worker; each is a flag of `python -m serving serve`."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from protos.errors import InvalidInput
from serving.query import Query

LONGEST_SECONDS = (2**31 - 1) // 1000  # gRPC holds milliseconds in 32 bits: 24 days
ASK_LESS = "use a smaller k, fewer queries, or SearchStream"


@dataclass(frozen=True)
class Limits:
    """What one request may ask for.

    Raises:
        ValueError: a bound is below 1, `default_k` is above `max_k`, or `max_k` is above `max_hits`.
    """

    default_k: int = field(default=10, metadata={"help": "items in an answer where k is 0"})
    max_k: int = field(default=1000, metadata={"help": "items in an answer"})
    max_text_length: int = field(default=10_000, metadata={"help": "code points in a string"})
    max_batch: int = field(default=256, metadata={"help": "queries in one request"})
    max_exclude: int = field(default=1000, metadata={"help": "items that one request excludes"})
    max_values: int = field(default=1000, metadata={"help": "strings in a history or a feature"})
    max_in_flight: int = field(default=64, metadata={"help": "requests of one stream on their way at once"})
    max_message_bytes: int = field(default=4 << 20, metadata={"help": "size of one request"})
    max_hits: int = field(default=16_384, metadata={"help": "items in one answer: queries times k"})
    max_answer_bytes: int = field(
        default=4_000_000, metadata={"help": "size of one answer; gRPC clients receive 4 MiB by default"}
    )

    def __post_init__(self) -> None:
        _check_positive(self)
        if self.max_hits < self.max_k:  # or the largest k could not be asked for
            raise ValueError(f"max_hits: expected at least max_k = {self.max_k}, got {self.max_hits}")
        if self.default_k > self.max_k:
            raise ValueError(f"default_k: expected at most max_k = {self.max_k}, got {self.default_k}")

    def k(self, asked: int) -> int:
        """The k to answer with; 0 asks for the default.

        Raises:
            InvalidInput: it is above `max_k`.
        """
        if asked > self.max_k:
            raise InvalidInput("k", f"expected at most {self.max_k}, got {asked}")
        return asked or self.default_k

    def check_hits(self, queries: int, k: int) -> None:
        """Refuse a request for too many items.

        Args:
            queries: in the request.
            k: items for each query.

        Raises:
            InvalidInput: `queries * k` is above `max_hits`.
        """
        if queries * k > self.max_hits:
            raise InvalidInput(
                "k",
                f"expected at most {self.max_hits} items in one answer, got {queries} queries x {k} items"
                f" = {queries * k}; {ASK_LESS}",
            )

    def check_exclude(self, exclude: Sequence[str]) -> None:
        """Refuse too many excluded items.

        Raises:
            InvalidInput: there are more than `max_exclude`.
        """
        _check_count(len(exclude), self.max_exclude, "exclude", "items")

    def check_batch(self, count: int) -> int:
        """Refuse a batch without queries, or with too many; gives `count`.

        Raises:
            InvalidInput: `count` is 0 or above `max_batch`.
        """
        if not 1 <= count <= self.max_batch:
            raise InvalidInput("queries", f"expected 1 to {self.max_batch} queries, got {count}")
        return count

    def check_query(self, query: Query, name: str) -> None:
        """Refuse a query that is too large.

        Args:
            query: what is asked.
            name: what an error calls it, such as `queries[3]`.

        Raises:
            InvalidInput: a string or a list of strings is too long.
        """
        self._check_text(query.text or "", f"{name}.text")
        self._check_text(query.item_id or "", f"{name}.item_id")
        _check_count(len(query.history), self.max_values, f"{name}.history", "items")
        for feature, value in query.features.items():
            field_name = f"{name}.features.{feature}"
            if isinstance(value, str):
                self._check_text(value, field_name)
            elif not isinstance(value, int | float):
                _check_count(len(value), self.max_values, field_name, "strings")

    def _check_text(self, text: str, field_name: str) -> None:
        _check_count(len(text), self.max_text_length, field_name, "code points")


@dataclass(frozen=True)
class Bounds:
    """What a worker takes on.

    Raises:
        ValueError: a bound is below 1.
    """

    queue: int = field(
        default=512, metadata={"help": "queries that may wait for long; in an overload a batch and a half"}
    )
    backlog: int = field(
        default=2048, metadata={"help": "queries that may wait for a moment, after a pause of the machine"}
    )
    batch: int = field(default=32, metadata={"help": "queries that are answered together"})
    streams: int = field(
        default=64,
        metadata={"help": "streams that may be open; an idle one is ended where another needs room"},
    )
    watches: int = field(
        default=4, metadata={"help": "Health/Watch calls of one connection that may be open"}
    )
    connections: int = field(
        default=1024,
        metadata={"help": "connections that may be open; from 3/4 of them on the least used ones are closed"},
    )
    connections_per_address: int = field(
        default=128,
        metadata={
            "help": "connections of one address; the least used are closed beyond. Raise it behind a proxy"
        },
    )
    calls: int = field(default=16, metadata={"help": "calls of one connection that may be open at once"})
    first_call_seconds: int = field(
        default=10, metadata={"help": "seconds after which a connection without a call is closed"}
    )
    idle_seconds: int = field(
        default=300, metadata={"help": "seconds without an open call after which a connection is closed"}
    )
    age_seconds: int = field(
        default=3600,
        metadata={"help": "seconds after which a client is asked to connect anew; open calls go on"},
    )
    keepalive_seconds: int = field(
        default=30, metadata={"help": "seconds between pings that find connections whose client has gone"}
    )
    unsent_bytes: int = field(
        default=64 << 20,
        metadata={"help": "bytes of unread answers of more than 16 KiB each; streams are not included"},
    )
    connection_unsent_bytes: int = field(
        default=16 << 20,
        metadata={"help": "bytes of such answers on one connection; beyond, large requests are refused"},
    )

    def __post_init__(self) -> None:
        _check_positive(self)
        for name in ("first_call_seconds", "idle_seconds", "age_seconds", "keepalive_seconds"):
            if getattr(self, name) > LONGEST_SECONDS:
                raise ValueError(f"{name}: expected at most {LONGEST_SECONDS}, got {getattr(self, name)}")

    @property
    def room(self) -> int:
        """Queries that may wait where there is no overload."""
        return max(self.queue, self.backlog)

    @property
    def overload_queue(self) -> int:
        """Queries that may wait in an overload: a batch, and half of one that comes meanwhile."""
        return min(self.queue, self.batch + self.batch // 2)

    @property
    def fair_share(self) -> int:
        """Calls that one connection may add to the queue between two batches of an overload.

        As few connections as can fill the queue bring a batch so, and one that asks more than others has no
        more of it.
        """
        return max(1, -(-self.batch * self.calls // self.queue))


def _check_positive(bounds: Limits | Bounds) -> None:
    for each in fields(bounds):
        if getattr(bounds, each.name) < 1:
            raise ValueError(f"{each.name}: expected at least 1, got {getattr(bounds, each.name)}")


def _check_count(count: int, most: int, field_name: str, unit: str) -> None:
    if count > most:
        raise InvalidInput(field_name, f"expected at most {most} {unit}, got {count}")
