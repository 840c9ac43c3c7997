"""What writers and readers of a catalogue saw, and whether one order of all writes explains it.

The service gives each write a sequence and each answer the sequence of the state that it was made from. So
the order of the writes is known, and an answer can be checked by itself: the items that it shows must be as
the last write up to its sequence left them. An item that was not written by then is as the bundle has it, and
is not checked. Linearizability checkers have to search for such an order (Wing and Gong, 1993); here nothing
has to be searched.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

EXAMPLES = 5  # of each violation, for the report

# Violations, by the name of their figure in the report.
DELETED = "deleted_seen"  # an item that a delete up to the answer's sequence has withdrawn
STALE = "stale_seen"  # an item as an earlier write left it
DUPLICATE = "duplicates_seen"  # an item twice
EARLY = "early_answers"  # an answer from a state without the write that it was to see
AHEAD = "ahead_seen"  # an item as a write after the answer's sequence left it
SHORT = "short_answers"  # fewer items than were asked for, though the catalogue has them
MISSED = "missed_own"  # an answer that lacks the item whose text was the query
LOST = "acknowledged_lost"  # an item that is not, at the end, as the last acknowledged write left it
REPEATED = "sequences_repeated"  # two writes with one sequence
VIOLATIONS = (DELETED, STALE, DUPLICATE, EARLY, AHEAD, SHORT, LOST, REPEATED)


class Write(NamedTuple):
    """An acknowledged write of one item."""

    sequence: int  # that it was given
    item_id: str
    stamp: str | None  # of the item that was written; None for a delete


class Seen(NamedTuple):
    """An answer."""

    asked: int  # sequence of a write that the answer had to see
    sequence: int  # of the state that it was made from
    k: int  # items that were asked for
    hits: tuple[tuple[str, str], ...]  # item ids and their stamps, in order
    own: str = ""  # an item that was written with the query's text; empty if there is none
    text: str = ""  # of the query, if there is one


@dataclass
class Verdict:
    """What a check found."""

    found: Counter[str] = field(default_factory=Counter)  # violations by name
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # some of each
    answers: int = 0  # that were checked
    own_first: int = 0  # answers to the text of an item that was then in the catalogue, with the item first
    own: int = 0  # all answers to such texts

    def note(self, violation: str, text: str) -> None:
        """Count a violation."""
        self.found[violation] += 1
        if len(self.examples[violation]) < EXAMPLES:
            self.examples[violation].append(text)


class Order:
    """The writes of each item in the order of their sequences."""

    def __init__(self, writes: Iterable[Write]) -> None:
        self.writes: dict[str, list[Write]] = defaultdict(list)
        for write in sorted(writes):
            self.writes[write.item_id].append(write)

    def split(self, item_id: str, sequence: int) -> tuple[Write | None, list[Write]]:
        """The last write of an item up to a sequence, None if there is none, and those after it."""
        own = self.writes.get(item_id, [])
        place = bisect_right(own, sequence, key=lambda write: write.sequence)
        return own[place - 1] if place else None, own[place:]


def check(writes: Sequence[Write], seen: Iterable[Seen], fewest: int) -> Verdict:
    """Check all answers against the acknowledged writes, both in any order.

    An answer to k <= `fewest` has k items, because any state of the catalogue holds `fewest`.
    """
    verdict, order = Verdict(), Order(writes)
    for sequence, count in Counter(write.sequence for write in writes).items():
        if count > 1:
            verdict.note(REPEATED, f"sequence {sequence}: {count} writes")
    for each in seen:
        verdict.answers += 1
        where = f"answer at {each.sequence}, which had to see {each.asked}"
        if each.sequence < each.asked:
            verdict.note(EARLY, where)
        if len(each.hits) < min(each.k, fewest):
            verdict.note(SHORT, f"{where}: {len(each.hits)} items of {each.k}")
        for item_id, count in Counter(item_id for item_id, _ in each.hits).items():
            if count > 1:
                verdict.note(DUPLICATE, f"{where}: {item_id} {count} times")
        for item_id, stamp in each.hits:
            _check_hit(verdict, order, each.sequence, item_id, stamp, where)
        last, _ = order.split(each.own, each.sequence)
        if each.own and last is not None and last.stamp == each.text:
            verdict.own += 1
            verdict.own_first += bool(each.hits) and each.hits[0][0] == each.own
            verdict.found[MISSED] += all(item_id != each.own for item_id, _ in each.hits)
    return verdict


def _check_hit(verdict: Verdict, order: Order, sequence: int, item_id: str, stamp: str, where: str) -> None:
    """Check one item of an answer; one that was not written yet is as the bundle has it."""
    last, later = order.split(item_id, sequence)
    if last is not None and stamp == last.stamp:
        return
    text = f"{where}: {item_id} shows {stamp!r}"
    if any(stamp == write.stamp for write in later):
        verdict.note(AHEAD, f"{text}, which was written later")
    elif last is None:
        return  # as the bundle has it
    elif last.stamp is None:
        verdict.note(DELETED, f"{text}, but was deleted")
    else:
        verdict.note(STALE, f"{text}, expected {last.stamp!r}")


def check_last(
    verdict: Verdict, writes: Iterable[Write], stored: Mapping[str, tuple[int, str | None]]
) -> None:
    """Compare the catalogue at the end with the last acknowledged write of each item, and note differences.

    `stored` is item id -> sequence of its last change, and its stamp; None where it was deleted. An item that
    is stored and was never acknowledged is a difference, too.
    """
    last = {item_id: own[-1] for item_id, own in Order(writes).writes.items()}
    for item_id, write in last.items():
        found = stored.get(item_id)
        if found != (write.sequence, write.stamp):
            text = f"{item_id}: expected {write.stamp!r} at {write.sequence}, found {found}"
            verdict.note(LOST, text)
    for item_id in stored.keys() - last.keys():
        verdict.note(LOST, f"{item_id}: {stored[item_id]} was never acknowledged")
