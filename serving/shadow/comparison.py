"""What two answers to one query say of the bundles that gave them.

Times are compared only where both bundles had a query for itself and came to it from a pause: the champion
worked on no other with it, and for the shadow none was before it. In a batch a query costs half as much, and
one that follows another finds its caches warm. The champion's time is that of a clock. The shadow's own is
that of its processor, for it has to wait whenever anybody else wants the core. Ratios are averaged as
logarithms, so that a champion that was held up once does not outweigh a thousand others, and two bundles that
change places have the inverse ratio.

Even so the two run in different processes, and the shadow has the easier one. On two busy cores equal bundles
had a ratio of .65 to .95; over all queries it would have been .4 to .95. So it shows what is twice as slow,
and no more. What a promotion goes by is measured side by side in one process.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from protos import retrieval_pb2 as wire

TOP = 10


class Own(NamedTuple):
    """The challenger's answer.

    Args:
        ids: of its items, best first.
        scores: of each.
        basis: what it rests on, as a value of `wire.Basis`.
        us: microseconds of processor time to encode and search, for this query alone.
    """

    ids: Sequence[str]
    scores: Sequence[float]
    basis: Any
    us: float


@dataclass(frozen=True)
class Comparison:
    """A challenger's answer beside the champion's.

    Args:
        overlap: part of the champion's first ten that are in its own; None where the champion found nothing.
        shift: mean of its scores less the champion's, of the items in both answers; None where there is
            none, or where the answers rest on different things and so have scores of different kinds.
        log_ratio: logarithm of its time over the champion's; None where they are not compared.
        empty: it found nothing.
    """

    overlap: float | None
    shift: float | None
    log_ratio: float | None
    empty: bool


def compare(champion: wire.SearchResponse, own: Own, timed: bool) -> Comparison:
    """Compare the answers to one query.

    Args:
        champion: its answer.
        own: the challenger's answer.
        timed: both had the query for itself, so that their times can be compared.
    """
    expected = {hit.id for hit in champion.hits[:TOP]}
    overlap = len(expected.intersection(own.ids[:TOP])) / len(expected) if expected else None
    log_ratio = None
    if timed:
        us = champion.timing.encode_us + champion.timing.search_us
        log_ratio = math.log(max(1.0, own.us) / max(1.0, us))
    return Comparison(overlap, _shift(champion, own), log_ratio, not own.ids)


def _shift(champion: wire.SearchResponse, own: Own) -> float | None:
    if champion.basis != own.basis:
        return None
    theirs = {hit.id: hit.score for hit in champion.hits}
    both = [score - theirs[item] for item, score in zip(own.ids, own.scores, strict=True) if item in theirs]
    return sum(both) / len(both) if both else None
