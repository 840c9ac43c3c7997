"""Writes of items, their bounds, and the rules by which each is carried out or refused, without a database.

Several requests are decided together, in order; each sees the writes of those before it. An item whose
condition does not hold is refused, and the other items of its request are written.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from twinspire.protos import catalogue_pb2 as wire
from twinspire.serving.flag_types import check_positive, option

NO_FIELDS = "{}"


@dataclass(frozen=True)
class CatalogueBounds:
    """Bounds of writes: the same for each service that uses a store, because the store keeps them.

    Raises:
        ValueError: a bound is below 1.
    """

    max_item_bytes: int = option(64 << 10, "bytes of an item's id, features and fields, as JSON")
    max_batch: int = option(1000, "items in one write")
    max_overlay: int = option(100_000, "items and deletes that the champion was built without")
    max_lag: int = option(20_000, "changes that may wait to be encoded")

    def __post_init__(self) -> None:
        check_positive(self)


class ItemWrite(NamedTuple):
    """One item to write or to delete.

    Args:
        item_id: of the item.
        deleted: whether to delete it.
        expected: sequence that the item's last change must have, 0 for none; None for any.
        in_bundle: whether the bundle that answers holds the item.
        features: JSON object, feature -> value.
        fields: JSON object, display field -> text.
    """

    item_id: str
    deleted: bool = False
    expected: int | None = None
    in_bundle: bool = False
    features: str = NO_FIELDS
    fields: str = NO_FIELDS


@dataclass(frozen=True)
class WriteRequest:
    """The writes of one call.

    Args:
        items: at least one, of different ids.
        mode: whether they must exist already; ignored for deletes.
        request_id: a request that is repeated with its id is not carried out again; empty if it has none.
        digest: of the request's content, to recognise a different request that reuses the id.
        deadline: of the caller, after which nothing is written; by `time.monotonic`, which is one clock for
            all processes of a host.
    """

    items: Sequence[ItemWrite]
    mode: "wire.WriteMode" = wire.WRITE_UPSERT
    request_id: str = ""
    digest: str = ""
    deadline: float = math.inf


def answer_to_json(answer: wire.WriteResponse) -> str:
    """An answer to a write, for the store; short where all items were written."""
    results = [(each.sequence, each.error, each.error_text) for each in answer.results]
    first = answer.sequence - len(results) + 1
    if results == [(first + n, wire.WRITE_OK, "") for n in range(len(results))]:
        return json.dumps([answer.sequence, len(results)])
    return json.dumps([answer.sequence, results])


def repeated_answer(text: str) -> wire.WriteResponse:
    """What `answer_to_json` made, as the answer to a repeated request."""
    sequence, results = json.loads(text)
    if isinstance(results, int):
        results = [(sequence - results + 1 + n, wire.WRITE_OK, "") for n in range(results)]
    answer = wire.WriteResponse(sequence=sequence, repeated_request=True)
    for number, error, why in results:
        answer.results.add(sequence=number, error=error, error_text=why)
    return answer


class ItemVersion(NamedTuple):
    """What the store holds of an item, without its content."""

    sequence: int
    deleted: bool


@dataclass
class Decisions:
    """Decides the writes of one transaction, request by request.

    Args:
        sequence: of the store before the transaction; `decide` raises it with each write.
        versions: of the items that its requests name, as the store holds them; `decide` updates them.
        base: sequence of the snapshot from which the champion was built; None if it is not known.
        overlay: number of the store's rows that changed after it; `decide` raises it with each other one.

    Attributes:
        written: id -> its new sequence and content, the last where an item is written twice.
    """

    sequence: int
    versions: dict[str, ItemVersion]
    base: int | None = None
    overlay: int = 0
    written: dict[str, tuple[int, ItemWrite]] = field(default_factory=dict)

    def bounded_rows(self, items: Sequence[ItemWrite]) -> int:
        """How many writes would add a row to the overlay; without deletes of what bundle or store know."""
        return sum(
            self._adds_row(each) and not (each.deleted and (each.in_bundle or each.item_id in self.versions))
            for each in items
        )

    def decide(self, request: WriteRequest) -> wire.WriteResponse:
        """The answer to one request; its writes are added to `written`."""
        results = [self._write(item, request.mode) for item in request.items]
        done = [each.sequence for each in results if not each.error]
        return wire.WriteResponse(sequence=max(done, default=self.sequence), results=results)

    def _write(self, item: ItemWrite, mode: "wire.WriteMode") -> wire.WriteResult:
        version = self.versions.get(item.item_id)
        last = version.sequence if version else 0
        if item.expected is not None and item.expected != last:
            text = f"expected sequence {item.expected}, but the item's last change is {last}"
            return _refused(last, wire.WRITE_CONFLICT, text)
        exists = not version.deleted if version else item.in_bundle
        if not item.deleted and mode == wire.WRITE_INSERT and exists:
            return _refused(last, wire.WRITE_EXISTS, "the item exists already")
        if not item.deleted and mode == wire.WRITE_UPDATE and not exists:
            return _refused(last, wire.WRITE_MISSING, "the item does not exist")
        self.overlay += self._adds_row(item)
        self.sequence += 1
        self.versions[item.item_id] = ItemVersion(self.sequence, item.deleted)
        self.written[item.item_id] = self.sequence, item
        return wire.WriteResult(sequence=self.sequence)

    def _adds_row(self, item: ItemWrite) -> bool:
        version = self.versions.get(item.item_id)
        return self.base is not None and (version is None or version.sequence <= self.base)


def _refused(last: int, error: "wire.WriteError", why: str) -> wire.WriteResult:
    """The result of an item that is not written; `last` is the sequence of its last change."""
    return wire.WriteResult(sequence=last, error=error, error_text=why)
