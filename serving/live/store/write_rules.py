"""Writes of items, their bounds, and the rules by which each is carried out or refused, without a database.

Several requests are decided together, in order; each sees the writes of those before it. An item whose
condition does not hold is refused, and the other items of its request are written.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, Self

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

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """From the store's JSON; names of a newer program are skipped."""
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in document.items() if name in known})


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

    def to_bytes(self) -> bytes:
        """As JSON, for another process."""
        return json.dumps([self.mode, self.request_id, self.digest, self.deadline, self.items]).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """What `to_bytes` made."""
        mode, request_id, digest, deadline, items = json.loads(content)
        return cls([ItemWrite(*each) for each in items], mode, request_id, digest, deadline)


class WriteResult(NamedTuple):
    """What became of one item.

    Args:
        sequence: of the write; of a refused one, that of the item's last change.
        error: why it was not written, or why searches do not find it; OK otherwise.
        text: the reason in English; empty if there is none.
    """

    sequence: int
    error: "wire.WriteError" = wire.WRITE_OK
    text: str = ""


@dataclass(frozen=True)
class WriteOutcome:
    """What became of one request.

    Args:
        sequence: the highest that it wrote; where it wrote nothing, that of the store.
        results: of the items, in order.
        repeated: whether an earlier request with the same id got these results.
    """

    sequence: int
    results: Sequence[WriteResult]
    repeated: bool = False

    def to_json(self) -> str:
        """For the store; short where all items were written."""
        first = self.sequence - len(self.results) + 1
        if all(each == WriteResult(first + n) for n, each in enumerate(self.results)):
            return json.dumps([self.sequence, len(self.results)])
        return json.dumps([self.sequence, self.results])

    @classmethod
    def repeat(cls, text: str) -> Self:
        """What `to_json` made, as the answer to a repeated request."""
        sequence, results = json.loads(text)
        if isinstance(results, int):
            return cls(sequence, [WriteResult(sequence - results + 1 + n) for n in range(results)], True)
        return cls(sequence, [WriteResult(*each) for each in results], True)


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

    Attributes:
        written: id -> its new sequence and content, the last where an item is written twice.
    """

    sequence: int
    versions: dict[str, ItemVersion]
    written: dict[str, tuple[int, ItemWrite]] = field(default_factory=dict)

    def decide(self, request: WriteRequest) -> WriteOutcome:
        """The outcome of one request; its writes are added to `written`."""
        results = [self._write(item, request.mode) for item in request.items]
        done = [each.sequence for each in results if not each.error]
        return WriteOutcome(max(done, default=self.sequence), results)

    def _write(self, item: ItemWrite, mode: "wire.WriteMode") -> WriteResult:
        version = self.versions.get(item.item_id)
        last = version.sequence if version else 0
        if item.expected is not None and item.expected != last:
            text = f"expected sequence {item.expected}, but the item's last change is {last}"
            return WriteResult(last, wire.WRITE_CONFLICT, text)
        exists = not version.deleted if version else item.in_bundle
        if not item.deleted and mode == wire.WRITE_INSERT and exists:
            return WriteResult(last, wire.WRITE_EXISTS, "the item exists already")
        if not item.deleted and mode == wire.WRITE_UPDATE and not exists:
            return WriteResult(last, wire.WRITE_MISSING, "the item does not exist")
        self.sequence += 1
        self.versions[item.item_id] = ItemVersion(self.sequence, item.deleted)
        self.written[item.item_id] = self.sequence, item
        return WriteResult(self.sequence)
