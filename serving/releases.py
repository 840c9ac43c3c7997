"""What the service tells of its bundles: for `Info`, and for a scrape.

The figures come from the workers' rows, each bundle's by its version, and from the board's notes: what is
served in which role, how the alias is followed, and what the shadow has found.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily as Counter
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.core import HistogramMetricFamily as Histogram
from prometheus_client.core import Metric

from protos import retrieval_pb2 as wire
from serving import cells
from serving.board import Board
from serving.families import add_histogram
from serving.histogram import SECONDS, width
from serving.served import CANARY, CHAMPION
from serving.shadow.channel import Channel
from serving.shadow.process import NOTE as SHADOW
from serving.shadow.report import shadow_metrics, shadow_state
from serving.swap import TARGET

FOLLOWING = "following"
PROCESSES = {"follower": FOLLOWING, "shadow": SHADOW}  # and the notes that say their ids


class Releases:
    """What there is to tell of the bundles of a service.

    Args:
        board: of the service.
        read: gives the cells of every worker, as they are now.
        channel: to the shadow, where there is one.
    """

    def __init__(
        self,
        board: Board,
        read: Callable[[], Sequence[Sequence[float]]],
        channel: Channel | None = None,
    ) -> None:
        self._board = board
        self._read = read
        self._channel = channel

    def state(self) -> dict[str, Any]:
        """The fields of `ServiceState` that tell of this."""
        following = self._board.read(FOLLOWING)
        known = {field.name for field in wire.Following.DESCRIPTOR.fields}
        told = {name: value for name, value in following.items() if name in known}
        return {
            "bundles": [wire.ServedBundle(**each) for each in self._bundles()],
            "following": wire.Following(**told) if told else None,
            "shadow": self._shadow(),
        }

    def metrics(self) -> Iterator[Metric]:
        """What a scrape shows."""
        yield from _by_version(by_version(self._read()))
        roles = Gauge(
            "twinspire_bundle_share",
            "Part of the requests that a bundle answers.",
            labels=["role", "version", "model_version"],
        )
        for each in self._bundles():
            labels = [each["role"], each["bundle_version"][:12], each["model_version"]]
            roles.add_metric(labels, each["share"])
        yield roles
        following = self._board.read(FOLLOWING)
        if following:
            yield from _following(following)
        if self._channel:
            yield from shadow_metrics(self._board.read(SHADOW), self._channel.dropped)

    def processes(self) -> dict[str, int]:
        """Name -> id of the processes that follow and shadow, where there are any."""
        pids = {name: self._board.read(note).get("pid") for name, note in PROCESSES.items()}
        return {name: pid for name, pid in pids.items() if pid}

    def _shadow(self) -> wire.Shadow | None:
        if self._channel is None:
            return None
        return wire.Shadow(**shadow_state(self._board.read(SHADOW), self._channel.dropped))

    def _bundles(self) -> list[dict[str, Any]]:
        """The fields of `ServedBundle` of the champion, and of the canary where there is one."""
        target = self._board.read(TARGET)
        canary, counted = target.get("canary"), by_version(self._read())
        share = canary["share"] if canary else 0.0
        found = []
        for role, wanted, part in ((CHAMPION, target.get("champion"), 1.0 - share), (CANARY, canary, share)):
            if wanted:
                version = wanted["bundle_version"]
                row = counted.get(cells.version_text(cells.version_cell(version)))
                requests = [] if row is None else [row[cell] for cell in cells.VERSION_REQUESTS.values()]
                good = 0.0 if row is None else row[cells.VERSION_REQUESTS["OK"]]
                found.append(
                    {
                        "role": role,
                        "bundle_version": version,
                        "model_version": wanted["model_version"],
                        "share": part,
                        "requests": int(sum(requests)),
                        "errors": int(sum(requests) - good),
                    }
                )
        return found


def by_version(rows: Sequence[Sequence[float]]) -> dict[str, list[float]]:
    """The cells of each version of a bundle, summed over all workers.

    Args:
        rows: the cells of every worker.

    Returns:
        first digits of the version -> its cells, from its start on.
    """
    found: dict[str, list[float]] = {}
    for row in rows:
        for start in cells.VERSION_STARTS:
            if row[start]:
                own = row[start : start + cells.VERSION_WIDTH]
                name = cells.version_text(row[start])
                before = found.get(name, [0.0] * len(own))
                found[name] = [a + b for a, b in zip(before, own, strict=True)]
    return found


def _by_version(counted: Mapping[str, Sequence[float]]) -> Iterator[Metric]:
    requests = Counter(
        "twinspire_bundle_requests", "Calls that a bundle has answered.", labels=["version", "code"]
    )
    seconds = Histogram(
        "twinspire_bundle_request_seconds", "A call from start to end, by bundle.", labels=["version"]
    )
    for version, row in counted.items():
        for code, cell in cells.VERSION_REQUESTS.items():
            if row[cell]:
                requests.add_metric([version, code], row[cell])
        own = row[cells.VERSION_SECONDS : cells.VERSION_SECONDS + width(SECONDS)]
        add_histogram(seconds, [version], SECONDS, own)
    yield from (requests, seconds)


def _following(note: Mapping[str, Any]) -> Iterator[Metric]:
    """How the alias is followed."""
    yield Gauge(
        "twinspire_follow_last_check_timestamp_seconds",
        "Unix time when the registry was last asked.",
        note["last_check"],
    )
    yield Gauge("twinspire_follow_failures", "Checks in a row that went wrong.", note["failures"])
    yield Gauge(
        "twinspire_follow_pending",
        "1 while the alias names a version that is not served.",
        float(bool(note["candidate"])),
    )
    yield Counter("twinspire_follow_swaps", "Changes of the champion.", note["swaps"])
    yield Counter("twinspire_follow_refused", "Versions that were not taken.", note["refused"])
    yield Gauge(
        "twinspire_follow_last_swap_timestamp_seconds",
        "Unix time when the champion was swapped in; 0 where it is the first.",
        note["last_swap"],
    )
