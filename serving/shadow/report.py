"""What `Info` and a scrape show of the shadow, made from its entry in shared memory."""

from collections.abc import Iterator, Mapping
from typing import Any

from twinspire.protos import retrieval_pb2 as wire
from twinspire.serving.observability import metrics
from twinspire.serving.observability.metrics import Reading

COUNTERS = {
    "queries": metrics.SHADOW_QUERIES,
    "dropped": metrics.SHADOW_DROPPED,
    "errors": metrics.SHADOW_ERRORS,
    "empty": metrics.SHADOW_EMPTY,
}
# Name of a mean in the entry -> its metric, and the number of queries in the mean; a mean of none is not
# shown.
MEANS = {
    "overlap_at_10": (metrics.SHADOW_OVERLAP, "overlaps"),
    "score_shift": (metrics.SHADOW_SCORE_SHIFT, "shifts"),
}


def shadow_state(entry: Mapping[str, Any], dropped: int) -> dict[str, Any]:
    """The fields of `retrieval.v1.Shadow` in `Info`.

    Args:
        entry: the shadow's entry in shared memory; empty if the process has not written one yet.
        dropped: `ShadowChannel.dropped`.
    """
    names = [field.name for field in wire.Shadow.DESCRIPTOR.fields]
    state = {name: entry[name] for name in names if name in entry}
    return {**state, "dropped": max(0, dropped - entry.get("dropped_before", dropped))}


def shadow_readings(entry: Mapping[str, Any], dropped: int) -> Iterator[Reading]:
    """The metrics of the shadow; none if it has no bundle.

    All of them compare the bundle in the label `version` with the current champion, and restart at 0 when one
    of the two changes.

    Args:
        entry: as in `shadow_state`.
        dropped: as in `shadow_state`.
    """
    if not entry.get("bundle_version"):
        return
    state, labels = shadow_state(entry, dropped), [entry["bundle_version"][:12]]
    for name, metric in COUNTERS.items():
        yield metric, [(labels, state[name])]
    for name, (metric, count) in MEANS.items():
        yield metric, [(labels, state[name])] if entry["sums"][count] else []
