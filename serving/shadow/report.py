"""The sums of the shadow's comparisons, and what `Info` and a scrape show of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from twinspire.protos import retrieval_pb2 as wire
from twinspire.serving.observability import metrics
from twinspire.serving.observability.metrics import Reading
from twinspire.serving.shared_state import fields_of

TOP = 10
COUNTERS = {
    "queries": metrics.SHADOW_QUERIES,
    "dropped": metrics.SHADOW_DROPPED,
    "errors": metrics.SHADOW_ERRORS,
    "empty": metrics.SHADOW_EMPTY,
}


@dataclass
class PairSums:
    """Sums over the searches that two bundles have answered; a part of the shadow's entry in shared memory.

    Args:
        bundle_version: of the challenger; empty if there is none.
        champion: version of its bundle; empty before the first answer.
        dropped_before: searches that workers had dropped before the first of the pair.
        queries: all searches.
        errors: searches that the challenger could not answer.
        empty: searches that the challenger found nothing for.
        overlap, overlaps: sum and number of shares: how many of the champion's first ten items are among the
            challenger's, in searches for which the champion found something.
        shift, shifts: sum and number of differences: the mean of the challenger's scores less the champion's
            over the items in both answers, if there are any, and the answers have scores of the same kind.
    """

    bundle_version: str = ""
    champion: str = ""
    dropped_before: int = 0
    queries: int = 0
    errors: int = 0
    empty: int = 0
    overlap: float = 0.0
    overlaps: int = 0
    shift: float = 0.0
    shifts: int = 0

    def add(self, champion: wire.SearchResponse, challenger: wire.SearchResponse) -> None:
        """Add a search that both bundles have answered."""
        self.queries += 1
        self.empty += not challenger.hits
        if champion.hits:
            expected, found = ({hit.id for hit in each.hits[:TOP]} for each in (champion, challenger))
            self.overlap += len(expected & found) / len(expected)
            self.overlaps += 1
        if (champion.basis, champion.fusion) == (challenger.basis, challenger.fusion):
            scores = {hit.id: hit.score for hit in champion.hits}
            shifts = [hit.score - scores[hit.id] for hit in challenger.hits if hit.id in scores]
            if shifts:
                self.shift += sum(shifts) / len(shifts)
                self.shifts += 1

    def fail(self) -> None:
        """Add a search that the challenger could not answer."""
        self.queries += 1
        self.errors += 1


def shadow_state(entry: Mapping[str, Any], dropped: int) -> dict[str, Any]:
    """The fields of `retrieval.v1.Shadow` in `Info`.

    Args:
        entry: the shadow's entry in shared memory; empty if the process has not written one yet.
        dropped: by all workers, since the service started.
    """
    if not entry:
        return {}
    return fields_of(wire.Shadow, entry) | {
        "overlap_at_10": entry["overlap"] / max(1, entry["overlaps"]),
        "score_shift": entry["shift"] / max(1, entry["shifts"]),
        "dropped": max(0, dropped - entry["dropped_before"]),
    }


def shadow_readings(entry: Mapping[str, Any], dropped: int) -> Iterator[Reading]:
    """The metrics of the shadow; none if it has no bundle, and no mean of no searches.

    All of them compare the bundle in the label `version` with the current champion, and restart at 0 when one
    of the two changes; arguments as of `shadow_state`.
    """
    if not entry.get("bundle_version"):
        return
    state, labels = shadow_state(entry, dropped), [entry["bundle_version"][:12]]
    for name, metric in COUNTERS.items():
        yield metric, [(labels, state[name])]
    yield metrics.SHADOW_OVERLAP, [(labels, state["overlap_at_10"])] if entry["overlaps"] else []
    yield metrics.SHADOW_SCORE_SHIFT, [(labels, state["score_shift"])] if entry["shifts"] else []
