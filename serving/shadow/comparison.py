"""Compares a challenger's answers with the champion's, and sums the comparisons up."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from twinspire.protos import retrieval_pb2 as wire

TOP = 10


@dataclass(frozen=True)
class AnswerComparison:
    """A challenger's answer compared with the champion's.

    Args:
        overlap: share of the champion's first ten items that are in the challenger's first ten; None if the
            champion found nothing.
        shift: mean of the challenger's scores minus the champion's, over the items in both answers; None if
            there are none, or if the answers differ in basis or fusion, and so in the kind of their scores.
        empty: the challenger found nothing.
    """

    overlap: float | None
    shift: float | None
    empty: bool


def compare(champion: wire.SearchResponse, challenger: wire.SearchResponse) -> AnswerComparison:
    """Compare the answers to one query."""
    expected = {hit.id for hit in champion.hits[:TOP]}
    found = {hit.id for hit in challenger.hits[:TOP]}
    overlap = len(expected & found) / len(expected) if expected else None
    return AnswerComparison(overlap, _shift(champion, challenger), not challenger.hits)


def _shift(champion: wire.SearchResponse, challenger: wire.SearchResponse) -> float | None:
    if (champion.basis, champion.fusion) != (challenger.basis, challenger.fusion):
        return None
    scores = {hit.id: hit.score for hit in champion.hits}
    both = [hit.score - scores[hit.id] for hit in challenger.hits if hit.id in scores]
    return sum(both) / len(both) if both else None


@dataclass
class Sums:
    """Sums over many queries, each with the number of queries that are in it.

    Args:
        queries: all queries.
        errors: queries that the challenger could not answer.
        empty: queries that the challenger found nothing for.
        overlap, overlaps: sum and number of `AnswerComparison.overlap`.
        shift, shifts: sum and number of `AnswerComparison.shift`.
    """

    queries: int = 0
    errors: int = 0
    empty: int = 0
    overlap: float = 0.0
    overlaps: int = 0
    shift: float = 0.0
    shifts: int = 0

    def add(self, compared: AnswerComparison) -> None:
        """Add a query that both bundles have answered."""
        self.queries += 1
        self.empty += compared.empty
        if compared.overlap is not None:
            self.overlap += compared.overlap
            self.overlaps += 1
        if compared.shift is not None:
            self.shift += compared.shift
            self.shifts += 1

    def fail(self) -> None:
        """Add a query that the challenger could not answer."""
        self.queries += 1
        self.errors += 1

    def means(self) -> dict[str, float]:
        """`overlap_at_10` and `score_shift`; 0 for a mean of no queries."""
        return {
            "overlap_at_10": self.overlap / self.overlaps if self.overlaps else 0.0,
            "score_shift": self.shift / self.shifts if self.shifts else 0.0,
        }


class PairRecord:
    """The sums of one pair of bundles; they restart at 0 when one of the two changes.

    Args:
        entry: that an earlier process wrote to shared memory, to continue from; empty if there was none.

    Attributes:
        challenger: version of the challenger's bundle; empty if there is none.
        champion: version of the champion's bundle; empty before the first answer.
    """

    def __init__(self, entry: Mapping[str, Any]) -> None:
        self.challenger: str = entry.get("bundle_version", "")
        self.champion: str = entry.get("champion", "")
        self.sums = Sums(**entry.get("sums", {}))
        self._dropped_before: int = entry.get("dropped_before", 0)

    def set_challenger(self, challenger: str, dropped: int) -> None:
        """The next answers are compared with this challenger's.

        Args:
            challenger: version of its bundle.
            dropped: `ShadowChannel.dropped`, so that earlier drops are not counted.
        """
        if challenger != self.challenger:
            self._restart(challenger, "", dropped)

    def set_champion(self, champion: str, dropped: int) -> None:
        """The next answer is of this champion; arguments as in `set_challenger`."""
        if not self.champion:
            self.champion = champion
        elif champion != self.champion:
            self._restart(self.challenger, champion, dropped)

    def document(self) -> dict[str, Any]:
        """The part of the shadow's entry in shared memory that describes the pair."""
        counts = {name: getattr(self.sums, name) for name in ("queries", "errors", "empty")}
        return {
            "bundle_version": self.challenger,
            "champion": self.champion,
            **counts,
            **self.sums.means(),
            "sums": asdict(self.sums),
            "dropped_before": self._dropped_before,
        }

    def _restart(self, challenger: str, champion: str, dropped: int) -> None:
        self.challenger, self.champion, self._dropped_before = challenger, champion, dropped
        self.sums = Sums()
