"""The records of a store: the feed of its changes, and the writes of items with their checks and rules.

The feed has the latest change of each item, in the order of their sequences: an item that changes again moves
to its end. Bundles are built from it, and items encoded. A reader that has applied all changes up to a
sequence asks for those after it.

Requests become writes by the checks, and these are carried out by the rules, which need no database. A value
that does not fit is refused with its field's name. Several requests are decided together, in order; each sees
the writes of those before it. An item whose condition does not hold is refused, and the other items of its
request are written.
"""

import hashlib
import json
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from twinspire.protos import catalogue_pb2 as wire
from twinspire.protos import retrieval_pb2
from twinspire.protos.bundle import Manifest
from twinspire.protos.errors import InvalidInput
from twinspire.protos.features import (
    LARGEST,
    CategoryFeature,
    FeatureSpec,
    HistoryFeature,
    IdFeature,
    NumberFeature,
    TextFeature,
)
from twinspire.protos.filter_kinds import FilterKind, parse_value
from twinspire.protos.names import near
from twinspire.serving.flag_types import check_positive, option
from twinspire.serving.retrieval.query import Value

NO_FIELDS = "{}"
MAX_ID_BYTES = 1024  # of an item's id in UTF-8: PostgreSQL's indexes hold no more than 2,700
MAX_REQUEST_ID = 128  # code points
SHOWN = 60  # code points of a refused value in an error


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


class Change(NamedTuple):
    """The latest state of an item that was written or deleted.

    Args:
        sequence: of the item's last change; a later change has a higher one.
        item_id: of the item.
        deleted: whether the last change was a delete; features and fields are then empty.
        features: feature of the item tower, or filter field -> raw value; None where it is absent.
        fields: display field -> text.
        written_at: Unix seconds, by the clock of the host that wrote it.
    """

    sequence: int
    item_id: str
    deleted: bool
    features: Mapping[str, Value | None]
    fields: Mapping[str, str]
    written_at: float = 0.0


class Position(NamedTuple):
    """A point in the history of a store.

    Two copies of a store that both have been at a position have the same history up to it: the mark was drawn
    in the commit that reached the sequence.

    Args:
        sequence: of the last change.
        mark: a random number.
    """

    sequence: int
    mark: int


START = Position(0, 0)  # of each history


class FeedPage(NamedTuple):
    """Some changes of a store, with the state that they were read from.

    An item may change between two reads, and moves to the end of the feed then. So a page is of one state:
    with the position of another one, it could lack an item that had changed by then.

    Args:
        position: where the history of the store ended.
        changes: lowest sequence first; none is beyond the position.
    """

    position: Position
    changes: list[Change]


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


def check_id(text: str, name: str) -> str:
    """An item's id.

    Raises:
        InvalidInput: it is blank, too long, or has control characters.
    """
    if not text or text.isspace():
        raise InvalidInput(name, "expected an id, got a blank text")
    if len(text) > MAX_ID_BYTES or len(text.encode()) > MAX_ID_BYTES:
        raise InvalidInput(name, f"expected at most {MAX_ID_BYTES} bytes in UTF-8, got {len(text.encode())}")
    if not text.isprintable() and (found := _control(text)):
        raise InvalidInput(name, f"expected no control characters, got {found}")
    return text


def check_answer_size(answer: wire.GetResponse, most: int) -> None:
    """Refuse an answer of more than `most` bytes.

    Raises:
        InvalidInput: it is larger.
    """
    if (size := answer.ByteSize()) > most:
        raise InvalidInput(
            "ids", f"expected an answer of at most {most} bytes, got {size}; ask for fewer ids"
        )


def check_request_id(text: str) -> str:
    """A request's id, empty if there is none.

    Raises:
        InvalidInput: it is too long, or has control characters.
    """
    if len(text) > MAX_REQUEST_ID:
        raise InvalidInput("request_id", f"expected at most {MAX_REQUEST_ID} code points, got {len(text)}")
    if not text.isprintable() and (found := _control(text)):
        raise InvalidInput("request_id", f"expected no control characters, got {found}")
    return text


class WriteParser:
    """Converts messages to writes, by the schemas of the bundles that answer.

    An item may have the features and filter fields that any of the bundles knows. As in a table of items,
    each text that the champion's item tower reads is required.

    Args:
        manifests: of the bundles, the champion's first.
    """

    def __init__(self, manifests: Sequence[Manifest]) -> None:
        champion = manifests[0].schema.item.items()
        self._required = [name for name, spec in champion if isinstance(spec, TextFeature)]
        self.features: dict[str, FeatureSpec] = {}
        self.filters: dict[str, FilterKind] = {}
        self.fields: set[str] = set()
        for manifest in reversed(manifests):  # the champion is the first, and overrides the others
            self.features |= {
                name: spec
                for name, spec in manifest.schema.item.items()
                if not isinstance(spec, IdFeature)  # it is the item's id
            }
            self.filters |= manifest.filters
            self.fields.update(manifest.display_fields)

    def upsert(self, request: wire.UpsertRequest, bounds: CatalogueBounds) -> WriteRequest:
        """The writes of a request; `ItemWrite.in_bundle` is not set.

        Raises:
            InvalidInput: a value is refused; the field names it.
        """
        if request.mode not in wire.WriteMode.values():
            raise InvalidInput("mode", f"expected 0, 1 or 2, got {request.mode}")
        _check_count(len(request.items), bounds, "items")
        items = [self._item(each, f"items[{n}]", bounds) for n, each in enumerate(request.items)]
        return _request(items, request.mode, request.request_id, "items[{}].item.id")

    def delete(self, request: wire.DeleteRequest, bounds: CatalogueBounds) -> WriteRequest:
        """The deletes of a request; errors as of `upsert`."""
        _check_count(len(request.items), bounds, "items")
        items = [
            ItemWrite(check_id(each.id, f"items[{n}].id"), True, _expected(each))
            for n, each in enumerate(request.items)
        ]
        return _request(items, wire.WRITE_UPSERT, request.request_id, "items[{}].id")

    def _item(self, message: wire.ItemWrite, name: str, bounds: CatalogueBounds) -> ItemWrite:
        if not message.HasField("item"):
            raise InvalidInput(f"{name}.item", "required, but missing")
        item = message.item
        item_id = check_id(item.id, f"{name}.item.id")
        values = {
            feature: self._value(feature, value, f"{name}.item.features.{_cut(feature)}")
            for feature, value in item.features.items()
        }
        if self.features.keys().isdisjoint(values):
            raise InvalidInput(f"{name}.item.features", f"expected at least one; {self._known()}")
        for feature in self._required:
            if feature not in values:
                reason = "required by the bundle's item tower, but missing"
                raise InvalidInput(f"{name}.item.features.{feature}", reason)
            if not str(values[feature]).strip():
                raise InvalidInput(f"{name}.item.features.{feature}", "expected a text, got a blank one")
        for shown in item.fields:
            if shown not in self.fields:
                known = ", ".join(sorted(self.fields)) or "none"
                raise InvalidInput(
                    f"{name}.item.fields.{_cut(shown)}",
                    f"unknown field; the bundle's display fields are {known}{near(shown, self.fields)}",
                )
        features, fields = _json(values), _json(dict(item.fields))
        size = len(item_id.encode()) + len(features.encode()) + len(fields.encode())
        if size > bounds.max_item_bytes:
            raise InvalidInput(
                f"{name}.item", f"expected at most {bounds.max_item_bytes} bytes as JSON, got {size}"
            )
        return ItemWrite(item_id, False, _expected(message), False, features, fields)

    def _value(self, feature: str, message: retrieval_pb2.FeatureValue, name: str) -> Value:
        spec = self.features.get(feature)
        if spec is None and feature not in self.filters:
            meant = near(feature, (*self.features, *self.filters))
            raise InvalidInput(name, f"unknown feature; {self._known()}{meant}")
        kind = message.WhichOneof("value")
        if kind is None:
            raise InvalidInput(name, "expected a text, a number or strings, got none of them")
        if kind == "number" and not math.isfinite(message.number):
            raise InvalidInput(
                name, f"expected a finite number, got {message.number}; leave it out where it is unknown"
            )
        if spec is not None:
            value = self._feature(spec, message, kind, name)
        else:
            value = list(message.strings.values) if kind == "strings" else getattr(message, kind)
        if feature in self.filters:
            parse_value(self.filters[feature], value, name)
        return value

    def _feature(self, spec: FeatureSpec, message: retrieval_pb2.FeatureValue, kind: str, name: str) -> Value:
        """The value of a feature of the item tower."""
        if isinstance(spec, NumberFeature):
            if kind != "number":
                raise InvalidInput(name, f"expected a number, got {_described(kind)}")
            if abs(message.number) > LARGEST:
                reason = f"expected a number within float32, at most {LARGEST:.4g}, got {message.number:.4g}"
                raise InvalidInput(name, reason)
            return message.number
        if kind == "strings" and _takes_strings(spec):
            return list(message.strings.values)
        if kind != "text" or isinstance(spec, HistoryFeature):
            expected = "strings" if _takes_strings(spec) else "a text"
            raise InvalidInput(name, f"expected {expected}, got {_described(kind)}")
        return [message.text] if _takes_strings(spec) else message.text

    def _known(self) -> str:
        features = (f"{name} ({spec.kind})" for name, spec in sorted(self.features.items()))
        text = f"the item tower takes {', '.join(features) or 'none but the id'}"
        filters = ", ".join(f"{name} ({kind})" for name, kind in sorted(self.filters.items()))
        return f"{text}; the filter fields are {filters}" if filters else text


def _request(
    items: Sequence[ItemWrite], mode: "wire.WriteMode", request_id: str, id_name: str
) -> WriteRequest:
    first: dict[str, int] = {}
    for n, each in enumerate(items):
        if first.setdefault(each.item_id, n) != n:
            other = id_name.format(first[each.item_id])
            raise InvalidInput(id_name.format(n), f"the same id as {other}; a request may hold an item once")
    check_request_id(request_id)
    digest = (
        hashlib.blake2b(json.dumps([mode, items]).encode(), digest_size=16).hexdigest() if request_id else ""
    )
    return WriteRequest(items, mode, request_id, digest)


def _check_count(count: int, bounds: CatalogueBounds, name: str) -> None:
    if not 1 <= count <= bounds.max_batch:
        raise InvalidInput(name, f"expected 1 to {bounds.max_batch} items, got {count}")


def _expected(message: wire.ItemWrite | wire.ItemDelete) -> int | None:
    return message.expected_sequence if message.HasField("expected_sequence") else None


def _takes_strings(spec: FeatureSpec) -> bool:
    return isinstance(spec, HistoryFeature) or (isinstance(spec, CategoryFeature) and spec.multi)


def _described(kind: str) -> str:
    return {"text": "a text", "number": "a number", "strings": "strings"}[kind]


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, ensure_ascii=False)


def _control(text: Iterable[str]) -> str:
    """The first control character of a text, as its code point; empty if there is none."""
    found = next((each for each in text if unicodedata.category(each) == "Cc"), "")
    return f"U+{ord(found):04X}" if found else ""


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
