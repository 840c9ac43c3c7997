"""What is counted of one challenger beside one champion, in a form that a note can hold."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from serving.shadow.comparison import Comparison


@dataclass
class Sums:
    """Of many queries; every sum beside the number of queries that are in it.

    Args:
        queries: that were asked.
        errors: those that the challenger could not take.
        empty: those that it found nothing for.
        overlap, overlaps: of `Comparison.overlap`.
        shift, shifts: of `Comparison.shift`.
        log_ratio, log_ratios: of `Comparison.log_ratio`.
    """

    queries: int = 0
    errors: int = 0
    empty: int = 0
    overlap: float = 0.0
    overlaps: int = 0
    shift: float = 0.0
    shifts: int = 0
    log_ratio: float = 0.0
    log_ratios: int = 0

    def add(self, compared: Comparison) -> None:
        """One more query has two answers."""
        self.queries += 1
        self.empty += compared.empty
        if compared.overlap is not None:
            self.overlap += compared.overlap
            self.overlaps += 1
        if compared.shift is not None:
            self.shift += compared.shift
            self.shifts += 1
        if compared.log_ratio is not None:
            self.log_ratio += compared.log_ratio
            self.log_ratios += 1

    def fail(self) -> None:
        """One more query has no answer of the challenger's."""
        self.queries += 1
        self.errors += 1

    def means(self) -> dict[str, float]:
        """`overlap_at_10`, `score_shift` and `latency_ratio`; each is 0 where it could not be measured."""
        return {
            "overlap_at_10": self.overlap / self.overlaps if self.overlaps else 0.0,
            "score_shift": self.shift / self.shifts if self.shifts else 0.0,
            "latency_ratio": math.exp(self.log_ratio / self.log_ratios) if self.log_ratios else 0.0,
        }

    def document(self) -> dict[str, Any]:
        """As JSON gives it; `Sums(**document)` is the same again."""
        return asdict(self)


class Record:
    """What there is to tell of one pair of bundles; begins anew with another.

    Args:
        note: of the process before, from which it goes on; empty where there was none.

    Attributes:
        challenger: version of the bundle that is asked; empty where there is none.
        champion: of whose answers these are; empty before the first.
        round: grows by one whenever the sums begin anew.
        sums: of the pair.
    """

    def __init__(self, note: Mapping[str, Any]) -> None:
        self.challenger: str = note.get("bundle_version", "")
        self.champion: str = note.get("champion", "")
        self.round: int = note.get("round", 0)
        self.sums = Sums(**note.get("sums", {}))
        self._dropped_before: int = note.get("dropped_before", 0)

    def challenge(self, challenger: str, dropped: int) -> None:
        """This bundle is asked from now on.

        Args:
            challenger: its version.
            dropped: `Channel.dropped`, so that what was dropped before does not count.
        """
        if challenger != self.challenger:
            self._begin(challenger, "", dropped)

    def answer(self, champion: str, dropped: int) -> None:
        """The next answer to compare with is of this champion; arguments as of `challenge`."""
        if not self.champion:
            self.champion = champion
        elif champion != self.champion:
            self._begin(self.challenger, champion, dropped)

    def document(self) -> dict[str, Any]:
        """The part of the note that is made of it."""
        counts = {name: getattr(self.sums, name) for name in ("queries", "errors", "empty")}
        return {
            "bundle_version": self.challenger,
            "champion": self.champion,
            "round": self.round,
            **counts,
            **self.sums.means(),
            "sums": self.sums.document(),
            "dropped_before": self._dropped_before,
        }

    def _begin(self, challenger: str, champion: str, dropped: int) -> None:
        self.challenger, self.champion, self._dropped_before = challenger, champion, dropped
        self.round += 1
        self.sums = Sums()
