"""How the shadow is told: what `Info` and `/metrics` make of its note on the board."""

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily as Counter
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.core import Metric

from protos import retrieval_pb2 as wire

COUNTERS = {
    "queries": "Queries that the shadow was asked.",
    "dropped": "Queries that it was too busy for, or that were too large.",
    "errors": "Queries that it could not take.",
    "empty": "Queries that it found nothing for.",
}
# What a mean is called in the note, here, and the number of queries in it; one of none has no sample.
GAUGES = {
    "overlap_at_10": ("overlap", "overlaps", "Part of the champion's first ten that it found."),
    "score_shift": ("score_shift", "shifts", "Its score less the champion's, of items that both found."),
    "latency_ratio": ("latency_ratio", "log_ratios", "Its time to encode and search, over the champion's."),
}


def shadow_state(note: Mapping[str, Any], dropped: int) -> dict[str, Any]:
    """The fields of `retrieval.v1.Shadow`, as `Info` tells them.

    Args:
        note: the board's `shadow`; empty where the process has not written one yet.
        dropped: `Channel.dropped`.
    """
    names = [field.name for field in wire.Shadow.DESCRIPTOR.fields]
    state = {name: note[name] for name in names if name in note}
    return {**state, "dropped": max(0, dropped - note.get("dropped_before", dropped))}


def shadow_metrics(note: Mapping[str, Any], dropped: int) -> Iterator[Metric]:
    """What a scrape tells of the shadow; nothing where it has no bundle.

    All of it is of the bundle in the label `version` beside the champion of the moment, and begins anew with
    another of the two.

    Args:
        note: as of `shadow_state`.
        dropped: likewise.
    """
    if not note.get("bundle_version"):
        return
    state, labels = shadow_state(note, dropped), [note["bundle_version"][:12]]
    for name, text in COUNTERS.items():
        counter = Counter(f"twinspire_shadow_{name}", text, labels=["version"])
        counter.add_metric(labels, state[name])
        yield counter
    for field, (name, count, text) in GAUGES.items():
        gauge = Gauge(f"twinspire_shadow_{name}", text, labels=["version"])
        if note["sums"][count]:
            gauge.add_metric(labels, state[field])
        yield gauge
