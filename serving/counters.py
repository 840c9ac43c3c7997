"""One worker's figures: what its reactor calls while it answers, and what each call adds to its row.

The additions are written out where every request passes, for to call a function costs as much as two of
them.
"""

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from typing import TypeAlias

from serving import cells
from serving.cells import (
    CONNECTIONS_CLOSED,
    HEARTBEAT,
    IN_FLIGHT,
    QUERIES,
    QUEUE_DEPTH,
    REFUSED,
    REQUEST_SECONDS,
    REQUESTS,
    STREAMS,
    VERSION_REQUESTS,
    VERSION_SECONDS,
    VERSION_WIDTH,
)
from serving.histogram import SECONDS, SIZES

_QUEUE, _ENCODE, _SEARCH, _SERIALISE = (cells.STAGE_SECONDS[stage] for stage in cells.STAGES)
_SUM = len(SECONDS) + 1
_BATCH, _BATCH_SUM = cells.BATCH_SIZE, cells.BATCH_SIZE + len(SIZES) + 1

Row: TypeAlias = "memoryview[float]"


class WorkerMetrics:
    """One worker's figures. Made by `SharedMetrics.worker`.

    For one thread. Queries are counted as floats, because that is what the cells are. `waited`, `batch` and
    `queued` make this a `batching.Observer`.
    """

    __slots__ = ("_cells", "_versions")

    def __init__(self, row: Row) -> None:
        self._cells = row
        # Where the cells of each version are, the one that was shown last at the end.
        self._versions = {row[start]: start for start in cells.VERSION_STARTS if row[start]}

    def shows(self, versions: Sequence[str]) -> None:
        """These versions of bundles are served from now on; `versioned` counts no others.

        Raises:
            ValueError: they are more than there is room for.
        """
        if len(versions) > cells.VERSIONS:
            raise ValueError(f"expected at most {cells.VERSIONS} versions, got {len(versions)}")
        named = [cells.version_cell(version) for version in versions]
        for name in named:
            start = self._versions.pop(name, None)
            if start is None:
                start = self._room(named)
                self._cells[start : start + VERSION_WIDTH] = array("d", bytes(8 * VERSION_WIDTH))
                self._cells[start] = name  # at last: a reader must not take the counts of another for its own
            self._versions[name] = start

    def _room(self, needed: Sequence[float]) -> int:
        """A start that nobody has, or whose version has not been shown for longest."""
        free = [start for start in cells.VERSION_STARTS if start not in self._versions.values()]
        if free:
            return free[0]
        return self._versions.pop(next(name for name in self._versions if name not in needed))

    def versioned(self, version: float, code: str, seconds: float) -> None:
        """A request has been answered, or refused, by a bundle; beside `finished`.

        Args:
            version: of the bundle, as `cells.version_cell` writes it.
            code: name of the request's gRPC status.
            seconds: as `finished` takes it.

        Raises:
            KeyError: there is no such status.
        """
        count = VERSION_REQUESTS[code]
        start = self._versions.get(version)
        if start is not None:
            row = self._cells
            row[start + count] += 1.0
            start += VERSION_SECONDS
            row[start + bisect_left(SECONDS, seconds)] += 1.0
            row[start + _SUM] += seconds

    @property
    def row(self) -> Row:
        """The cells. The event loop adds to `HEARTBEAT` at each turn: a call would cost twice as much."""
        return self._cells

    def heartbeat(self) -> float:
        """Turns of the event loop; 0 until it has started."""
        return self._cells[HEARTBEAT]

    def began(self) -> None:
        """A request has come in; `finished` must follow."""
        self._cells[IN_FLIGHT] += 1.0

    def finished(self, method: str, code: str, seconds: float) -> None:
        """A request has been answered, or refused.

        Args:
            method: bare name; one that is not of `cells.METHODS` counts as "other".
            code: name of its gRPC status.
            seconds: from `began`; of a stream, for as long as it was open.

        Raises:
            KeyError: there is no such status.
        """
        if method not in REQUESTS:
            method = cells.OTHER
        count = REQUESTS[method][code]
        start = REQUEST_SECONDS[method]
        bucket = start + bisect_left(SECONDS, seconds)
        row = self._cells
        row[count] += 1.0
        row[bucket] += 1.0
        row[start + _SUM] += seconds
        row[IN_FLIGHT] -= 1.0

    def answered(self, method: str, seconds: float, queries: float = 1.0) -> None:
        """Queries have their answer: those of one call, or of one message of a stream.

        Args:
            method: bare name of the call.
            seconds: spent on turning the answer into its message.
            queries: in this message.
        """
        count = QUERIES[method if method in QUERIES else cells.OTHER]
        bucket = _SERIALISE + bisect_left(SECONDS, seconds)
        row = self._cells
        row[count] += queries
        row[bucket] += queries
        row[_SERIALISE + _SUM] += seconds * queries

    def refused(self, reason: str, queries: float = 1.0) -> None:
        """Queries will have no answer.

        Raises:
            KeyError: `reason` is not one of `cells.REASONS`.
        """
        cell = REFUSED[reason]
        self._cells[cell] += queries

    def turned_away(self, method: str, code: str, reason: str) -> None:
        """A call was refused before a handler began with it, and so took no time that is worth a figure.

        Instead of `began` and `finished`, whose histogram many quick refusals would make look fast.

        Args:
            method: as `finished` takes it.
            code: as `finished` takes it.
            reason: as `refused` takes it.

        Raises:
            KeyError: there is no such status or reason.
        """
        count = REQUESTS[method if method in REQUESTS else cells.OTHER][code]
        cell = REFUSED[reason]
        self._cells[count] += 1.0
        self._cells[cell] += 1.0

    def closed_connection(self, reason: str) -> None:
        """The server has closed a connection; called on the monitor's thread, which alone writes these cells.

        Raises:
            KeyError: `reason` is not one of `cells.CLOSED_REASONS`.
        """
        self._cells[CONNECTIONS_CLOSED[reason]] += 1.0

    def streams(self, count: int) -> None:
        """So many calls of many requests are open at the moment."""
        self._cells[STREAMS] = count

    def queued(self, depth: int) -> None:
        """So many jobs wait at the moment."""
        self._cells[QUEUE_DEPTH] = depth

    def waited(self, queries: float, queue_us: int) -> None:
        """Queries have left the queue, to be answered or because nobody waits for them any more.

        Args:
            queries: that left it together.
            queue_us: microseconds that they were in it.
        """
        row = self._cells
        seconds = queue_us / 1e6
        row[_QUEUE + bisect_left(SECONDS, seconds)] += queries
        row[_QUEUE + _SUM] += seconds * queries

    def batch(self, queries: float, encode_us: int, search_us: int, searched: float | None = None) -> None:
        """Queries have been worked on together; each of them took as long as all of them.

        Args:
            queries: in the batch.
            encode_us: microseconds that the query tower took.
            search_us: microseconds that the index took.
            searched: of the queries, those that asked for items, not for vectors alone; all if not given.
        """
        row = self._cells
        row[_BATCH + bisect_left(SIZES, queries)] += 1.0
        row[_BATCH_SUM] += queries
        seconds = encode_us / 1e6
        row[_ENCODE + bisect_left(SECONDS, seconds)] += queries
        row[_ENCODE + _SUM] += seconds * queries
        if searched is None:
            searched = queries
        if searched:
            seconds = search_us / 1e6
            row[_SEARCH + bisect_left(SECONDS, seconds)] += searched
            row[_SEARCH + _SUM] += seconds * searched
