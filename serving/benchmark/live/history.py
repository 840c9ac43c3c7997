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
DELETED, STALE, DUPLICATE, EARLY, AHEAD, SHORT, MISSED, LOST, REPEATED = (
    "deleted_seen",  # an item that a delete up to the answer's sequence has withdrawn
    "stale_seen",  # an item as an earlier write left it
    "duplicates_seen",  # an item twice
    "early_answers",  # an answer from a state without the write that it was to see
    "ahead_seen",  # an item as a write after the answer's sequence left it
    "short_answers",  # fewer items than were asked for, though the catalogue has them
    "missed_own",  # an answer that lacks the item whose text was the query
    "acknowledged_lost",  # an item that is not, at the end, as the last acknowledged write left it
    "sequences_repeated",  # two writes with one sequence
)
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
        self._sequences: dict[str, list[int]] = defaultdict(list)
        self._stamps: dict[str, list[str | None]] = defaultdict(list)
        self.last: dict[str, Write] = {}
        for write in sorted(writes):
            self._sequences[write.item_id].append(write.sequence)
            self._stamps[write.item_id].append(write.stamp)
            self.last[write.item_id] = write

    def at(self, item_id: str, sequence: int) -> tuple[bool, str | None]:
        """Whether an item was written up to a sequence, and its stamp then; None where it was deleted."""
        place = bisect_right(self._sequences.get(item_id, ()), sequence)
        return place > 0, self._stamps[item_id][place - 1] if place else None

    def is_later(self, item_id: str, sequence: int, stamp: str) -> bool:
        """Whether a write after a sequence had this stamp."""
        place = bisect_right(self._sequences.get(item_id, ()), sequence)
        return stamp in self._stamps.get(item_id, [])[place:]


def check(writes: Sequence[Write], seen: Iterable[Seen], fewest: int) -> Verdict:
    """Check all answers against the writes.

    Args:
        writes: all that were acknowledged, in any order; two with one sequence are a violation.
        seen: the answers, in any order.
        fewest: items that any state of the catalogue holds; an answer to k <= `fewest` has k items.
    """
    verdict, order = Verdict(), Order(writes)
    repeated = Counter(write.sequence for write in writes)
    for sequence, count in repeated.items():
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
        if each.own and order.at(each.own, each.sequence)[1] == each.text:
            verdict.own += 1
            verdict.own_first += bool(each.hits) and each.hits[0][0] == each.own
            verdict.found[MISSED] += all(item_id != each.own for item_id, _ in each.hits)
    return verdict


def _check_hit(verdict: Verdict, order: Order, sequence: int, item_id: str, stamp: str, where: str) -> None:
    """Check one item of an answer."""
    is_written, expected = order.at(item_id, sequence)
    if stamp == expected:
        return
    text = f"{where}: {item_id} shows {stamp!r}"
    if order.is_later(item_id, sequence, stamp):
        verdict.note(AHEAD, f"{text}, which was written later")
    elif not is_written:  # as the bundle has it
        return
    elif expected is None:
        verdict.note(DELETED, f"{text}, but was deleted")
    else:
        verdict.note(STALE, f"{text}, expected {expected!r}")


def check_last(
    verdict: Verdict, writes: Iterable[Write], stored: Mapping[str, tuple[int, str | None]]
) -> None:
    """Compare the catalogue at the end with the last acknowledged write of each item.

    Args:
        verdict: receives the differences.
        writes: all that were acknowledged.
        stored: item id -> sequence of its last change, and its stamp; None where it was deleted. An item
            that is stored and was never acknowledged is a difference, too.
    """
    last = Order(writes).last
    for item_id, write in last.items():
        if stored.get(item_id) != (write.sequence, write.stamp):
            verdict.note(
                LOST,
                f"{item_id}: expected {write.stamp!r} at {write.sequence}, found {stored.get(item_id)}",
            )
    for item_id in stored.keys() - last.keys():
        verdict.note(LOST, f"{item_id}: {stored[item_id]} was never acknowledged")
