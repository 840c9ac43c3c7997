"""The state of a service for `Info`, and the metrics that are computed at a scrape.

The values come from the processes' entries in shared memory, and from the workers' rows of metrics.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from twinspire.protos import bundle
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.bundle import MANIFEST, VECTORS, Manifest
from twinspire.protos.documents import parse_json
from twinspire.protos.errors import BundleError
from twinspire.protos.files.served_log import DRIFT
from twinspire.serving.observability import layout, metrics
from twinspire.serving.observability.metrics import Reading
from twinspire.serving.observability.worker_metrics import SharedMetrics, sum_by_version
from twinspire.serving.rollout.loaded_bundle import CANARY, CHAMPION
from twinspire.serving.rollout.target import Target
from twinspire.serving.served_log.shared_queue import SharedQueues
from twinspire.serving.shadow.report import shadow_readings, shadow_state
from twinspire.serving.shared_state import (
    ACCESS,
    CATALOGUE,
    EVENTS,
    FOLLOWING,
    SERVED_LOG,
    SHADOW,
    TARGET,
    SharedState,
    fields_of,
)

# Name of a process -> name of its entry in shared memory, which holds the process id.
PROCESSES = {
    "follower": FOLLOWING,
    "shadow": SHADOW,
    "catalogue": CATALOGUE,
    "events": EVENTS,
    "served-log": SERVED_LOG,
}

# Name of an entry -> its values that are metrics; of a text, whether there is one.
READINGS = {
    FOLLOWING: {
        "last_check": metrics.FOLLOW_LAST_CHECK,
        "failures": metrics.FOLLOW_FAILURES,
        "candidate": metrics.FOLLOW_PENDING,
        "swaps": metrics.FOLLOW_SWAPS,
        "refused": metrics.FOLLOW_REFUSED,
        "last_swap": metrics.FOLLOW_LAST_SWAP,
    },
    CATALOGUE: {
        "sequence": metrics.CATALOGUE_SEQUENCE,
        "live_items": metrics.CATALOGUE_ITEMS,
        "tombstones": metrics.CATALOGUE_TOMBSTONES,
        "commits": metrics.CATALOGUE_COMMITS,
        "writes": metrics.CATALOGUE_WRITES,
        "commit_seconds": metrics.CATALOGUE_COMMIT_SECONDS,
        "last_error": metrics.CATALOGUE_FAILED,
    },
    EVENTS: {
        "stored": metrics.EVENTS_STORED,
        "commits": metrics.EVENTS_COMMITS,
        "commit_seconds": metrics.EVENTS_COMMIT_SECONDS,
        "last_error": metrics.EVENTS_FAILED,
    },
    SERVED_LOG: {
        "rows": metrics.LOG_ROWS,
        "bytes": metrics.LOG_BYTES,
        "last_error": metrics.LOG_FAILED,
    },
}


class ServiceStatus:
    """Reports the bundles of a service, how an alias is followed, the shadow, and the access files.

    Args:
        shared: the workers' metrics.
        shadow_queues: to the shadow, if there is one.
        log_queues: to the process of the served log, if there is one.
        log: folder of this log.
    """

    def __init__(
        self,
        shared_state: SharedState,
        shared: SharedMetrics,
        shadow_queues: SharedQueues | None = None,
        log_queues: SharedQueues | None = None,
        log: Path | None = None,
    ) -> None:
        self._shared_state = shared_state
        self._shared = shared
        self._shadow_queues, self._log_queues, self._log = shadow_queues, log_queues, log
        self._facts: tuple[str, str, int, int, float] | None = None  # of the champion, for `bundle_readings`

    def state(self) -> dict[str, Any]:
        """The fields of `ServiceState` in `Info` that describe bundles."""
        queues, read = self._shadow_queues, self._shared_state.read
        shadow = queues and wire.Shadow(**shadow_state(read(SHADOW), queues.dropped))
        return {
            "bundles": [wire.ServedBundle(**each) for each in self._bundles()],
            "following": self._message(wire.Following, FOLLOWING),
            "shadow": shadow,
            "catalogue": self._message(wire.LiveCatalogue, CATALOGUE),
            "served_log": self._served_log(),
            "events": self._message(wire.RecordedEvents, EVENTS),
        }

    def metrics(self) -> Iterator[Reading]:
        """The metrics with `Source.SCRAPE`, except those of processes."""
        yield from self.champion_readings()
        shares = []
        for each in self._bundles():
            labels = [each["role"], each["bundle_version"][:12], each["model_version"]]
            shares.append((labels, each["share"]))
        yield metrics.BUNDLE_SHARE, shares
        entries = {name: self._shared_state.read(name) for name in self._shared_state.names}
        for name, shown in READINGS.items():
            if entry := entries.get(name):
                for key, metric in shown.items():
                    value = entry.get(key, 0)
                    yield metric, [([], float(bool(value) if isinstance(value, str) else value))]
        if self._shadow_queues:
            yield from shadow_readings(self._shared_state.read(SHADOW), self._shadow_queues.dropped)
        if entry := entries.get(CATALOGUE):
            yield from catalogue_readings(entry, self._shared.read())
        if self._log_queues:
            queues, lost = self._log_queues, entries[SERVED_LOG]["lost"]
            reasons = {"behind": queues.dropped, "disk": lost, "error": queues.failed}
            yield metrics.LOG_DROPPED, [([reason], count) for reason, count in reasons.items()]
        if self._log:
            champion = Target.of(self._shared_state.read(TARGET)).champion
            yield from drift_readings(self._log / DRIFT, champion.bundle_version)
        if stale := entries.get(ACCESS, {}).get("stale"):
            yield metrics.FILE_STALE, [([name], float(is_stale)) for name, is_stale in stale.items()]

    def processes(self) -> dict[str, int]:
        """Name -> process id of the follower, the shadow and the processes of stores, if they run."""
        pids = {name: self._shared_state.read(entry).get("pid") for name, entry in PROCESSES.items()}
        return {name: pid for name, pid in pids.items() if pid}

    def champion_readings(self) -> Iterator[Reading]:
        """The metrics of the champion; none if its folder was removed before its manifest was read.

        The manifest is read once for each champion.
        """
        champion = Target.of(self._shared_state.read(TARGET)).champion
        if self._facts is None or self._facts[1] != champion.bundle_version:
            path = Path(champion.folder) / MANIFEST
            try:
                manifest, written = bundle.read_manifest(path.parent), path.stat().st_mtime
            except (BundleError, OSError):
                return
            size = index_bytes(manifest)
            self._facts = manifest.name, manifest.bundle_version, manifest.count, size, written
        yield from bundle_readings(*self._facts)

    def _message(self, kind: Any, name: str) -> Any:
        """A message with the fields of an entry; None if there is no entry."""
        entry = self._shared_state.read(name)
        return kind(**fields_of(kind, entry)) if entry else None

    def _served_log(self) -> wire.ServedLog | None:
        if self._log_queues is None:
            return None
        entry, queues = self._shared_state.read(SERVED_LOG), self._log_queues
        dropped = entry["lost"] + queues.dropped + queues.failed
        return wire.ServedLog(**fields_of(wire.ServedLog, entry) | {"dropped": dropped})

    def _bundles(self) -> list[dict[str, Any]]:
        """The fields of `ServedBundle` of the champion, and of the canary if there is one."""
        target = self._shared_state.read(TARGET)
        canary, counted = target.get("canary"), sum_by_version(self._shared.read())
        share = canary["share"] if canary else 0.0
        found = []
        for role, named, part in ((CHAMPION, target.get("champion"), 1.0 - share), (CANARY, canary, share)):
            if named:
                version = named["bundle_version"]
                cells = counted.get(layout.version_text(layout.version_cell(version)))
                counts = {code: cells[n] if cells else 0.0 for code, n in layout.VERSION_REQUESTS.items()}
                found.append(
                    {
                        "role": role,
                        "bundle_version": version,
                        "model_version": named["model_version"],
                        "share": part,
                        "requests": int(sum(counts.values())),
                        "errors": int(sum(counts.values()) - counts["OK"]),
                        "failures": int(sum(counts[code] for code in metrics.ERRORS)),
                    }
                )
        return found


def index_bytes(manifest: Manifest) -> int:
    """Size of the files of an index and of its vectors, if they are here."""
    served = manifest.served_files()
    return sum(served[name].size for name in {*manifest.index_files(), VECTORS} & served.keys())


def bundle_readings(name: str, version: str, items: int, size: int, written: float) -> Iterator[Reading]:
    """The metrics of a bundle.

    Args:
        items: number of items in its index.
        size: of its index and its vectors, in bytes.
        written: when its manifest was written to this disk, in Unix seconds: at the end of the export, or
            when the bundle was downloaded.
    """
    yield metrics.BUNDLE, [([name, version], 1.0)]
    yield metrics.BUNDLE_AGE, [([], max(0.0, time.time() - written))]
    yield metrics.INDEX_ITEMS, [([], items)]
    yield metrics.INDEX_BYTES, [([], size)]


def catalogue_readings(entry: Mapping[str, Any], rows: Sequence[Sequence[float]]) -> Iterator[Reading]:
    """The metrics of live items that have a label.

    Args:
        entry: of the catalogue's process in shared memory.
        rows: of the workers' metrics.
    """
    running = [([str(slot)], row) for slot, row in enumerate(rows) if row[layout.UP]]
    seen = [(labels, row[layout.SEEN_SEQUENCE]) for labels, row in running]
    yield metrics.CATALOGUE_WORKER_SEQUENCE, seen
    # A worker may see changes that the entry does not tell yet.
    lags = [(labels, max(0.0, entry["sequence"] - sequence)) for labels, sequence in seen]
    yield metrics.CATALOGUE_WORKER_LAG, lags
    yield metrics.CATALOGUE_OVERLAY, [(labels, row[layout.OVERLAY_ROWS]) for labels, row in running]
    bundles = entry.get("bundles", {}).items()
    yield metrics.CATALOGUE_DERIVED, [([version], each["sequence"]) for version, each in bundles]
    yield metrics.CATALOGUE_ENCODE_SECONDS, [([version], each["seconds"]) for version, each in bundles]


def drift_readings(path: Path, champion: str) -> Iterator[Reading]:
    """The metrics of drift; none if what was measured last is of another bundle, or cannot be read.

    Args:
        path: of the document that `python -m twinspire.export drift` has written, if it has.
        champion: version of the bundle that is served.
    """
    try:
        document = parse_json(path.read_bytes())
        if document["bundle"] != champion:
            return
        found = [([str(name)], each["psi"], each["drifted"]) for name, each in document["features"].items()]
        psi = [(labels, float(value)) for labels, value, _ in found]
        computed = float(document["computed"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return
    yield metrics.DRIFT_PSI, psi
    yield metrics.DRIFT_DETECTED, [(labels, float(bool(drifted))) for labels, _, drifted in found]
    yield metrics.DRIFT_TIME, [([], computed)]
