"""The records of items that both clients write and read, and their messages."""

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, NamedTuple

import grpc
from google.protobuf.message import Message

from twinspire.protos import catalogue_pb2 as wire
from twinspire.protos.errors import InvalidInput, MissingStage, TwinspireError, WriteRefused
from twinspire.serving.client.failures import error_from
from twinspire.serving.retrieval.query import Value
from twinspire.serving.wire.converters import refuse_surrogates, value_from_wire, value_to_wire

Mode = Literal["upsert", "insert", "update"]
MODES = {name.removeprefix("WRITE_").lower(): number for name, number in wire.WriteMode.items()}
MAX_SEQUENCE = 2**64 - 1


@dataclass(frozen=True)
class Item:
    """An item of the catalogue.

    Args:
        features: values of the item tower's features and of filter fields, by name.
        fields: display fields.
        expected_sequence: the item is written only if this is the sequence of its last change, 0 if there
            was none; None for no condition.
    """

    id: str
    features: Mapping[str, Value] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    expected_sequence: int | None = None


class Refusal(StrEnum):
    """Why an item was not written, or is not found; the values are part of the JSON of a result.

    EXISTS: it exists already, and was to be inserted. MISSING: it does not exist, and was to be updated.
    CONFLICT: its last change is another than expected. NOT_ENCODED: it was written, but the item tower cannot
    encode it. UNKNOWN: an error of a newer server that this client does not know; the text has its number.
    """

    EXISTS = "exists"
    MISSING = "missing"
    CONFLICT = "conflict"
    NOT_ENCODED = "not_encoded"
    UNKNOWN = "unknown"


class ItemResult(NamedTuple):
    """The result of one item of a write.

    Args:
        sequence: that of the write; if the item was not written, that of its last change.
        refusal: why it was not written, or is not found; None if it was written and is found.
        text: the reason in English; empty without a refusal.
    """

    id: str
    sequence: int
    refusal: Refusal | None = None
    text: str = ""


class Written(NamedTuple):
    """The answer to a write.

    Args:
        sequence: pass it as `min_sequence` to a search that must see the write.
        results: of each item, in order.
        repeated: whether this is the answer to an earlier request with the same id.
    """

    sequence: int
    results: tuple[ItemResult, ...]
    repeated: bool = False


class Origin(StrEnum):
    """Where an item is.

    LIVE: in the store. DELETED: deleted by a write. BUNDLE: in the bundle that answers, but not in the store.
    UNKNOWN: nowhere, or at an origin of a newer server that this client does not know.
    """

    LIVE = "live"
    DELETED = "deleted"
    BUNDLE = "bundle"
    UNKNOWN = "unknown"


class ItemState(NamedTuple):
    """An item as it stands in the catalogue.

    Args:
        item: with its id alone where it was deleted or is unknown; without features where it came with the
            bundle.
        sequence: of its last change; 0 where the store does not hold it.
        origin: where it is.
        written_at: Unix seconds; 0 where the store does not hold it.
    """

    item: Item
    sequence: int
    origin: Origin
    written_at: float


class ChangePage(NamedTuple):
    """Some changes of the feed, in order.

    Args:
        changes: latest states of items.
        sequence: of the store when they were read.
        store_id: of the store; if it is another one than before, begin again after 0.
    """

    changes: tuple[ItemState, ...]
    sequence: int
    store_id: str


_REFUSALS: dict[int, Refusal | None] = {
    number: None if number == wire.WRITE_OK else Refusal[name.removeprefix("WRITE_")]
    for name, number in wire.WriteError.items()
}
_ORIGINS: dict[int, Origin] = {
    number: Origin[name.removeprefix("ITEM_")] for name, number in wire.ItemOrigin.items()
}


def upsert_request(items: Iterable[Item], mode: Mode, request_id: str | None) -> wire.UpsertRequest:
    """The request to write items; arguments as of `RetrievalClient.upsert`.

    Raises:
        InvalidInput: a value cannot be sent.
    """
    if mode not in MODES:
        raise InvalidInput("mode", f"expected one of {', '.join(MODES)}, got {mode!r}")
    request = wire.UpsertRequest(mode=MODES[mode], request_id=chosen_request_id(request_id))  # type: ignore[arg-type]
    for n, item in enumerate(items):
        name = f"items[{n}]"
        with refuse_surrogates(name):
            request.items.append(_write(item, name))
    return request


def delete_request(
    ids: Iterable[str], request_id: str | None, expected: Mapping[str, int]
) -> wire.DeleteRequest:
    """The request to delete items; arguments as of `RetrievalClient.delete`.

    Raises:
        InvalidInput: a value cannot be sent, or `expected` has an id that is not among `ids`.
    """
    request = wire.DeleteRequest(request_id=chosen_request_id(request_id))
    left = dict(expected)
    for n, item_id in enumerate([ids] if isinstance(ids, str) else ids):
        with refuse_surrogates(f"items[{n}].id"):
            message = wire.ItemDelete(id=item_id)
        if item_id in expected:
            message.expected_sequence = check_range(expected[item_id], f"items[{n}].expected_sequence")
            left.pop(item_id, None)
        request.items.append(message)
    if left:
        raise InvalidInput("expected", f"{next(iter(left))!r} is not among the ids to delete")
    return request


def written(response: wire.WriteResponse, request: Any, strict: bool) -> Written:
    """The answer to a write.

    Args:
        response: as received, with a result for each item of the request.
        strict: whether an item that was not written, or not encoded, is an error.

    Raises:
        WriteRefused: an item was refused.
    """
    results = tuple(
        ItemResult(getattr(item, "item", item).id, each.sequence, *_refusal(each))
        for item, each in zip(request.items, response.results, strict=True)
    )
    found = Written(response.sequence, results, response.repeated_request)
    refused = [each for each in results if each.refusal is not None]
    if strict and refused:
        text = f"{len(refused)} of {len(results)} items: {refused[0].id!r}: {refused[0].text}"
        raise WriteRefused(text, found)
    return found


def page(response: wire.ChangesResponse) -> ChangePage:
    """A part of the feed."""
    return ChangePage(tuple(map(state, response.changes)), response.sequence, response.store_id)


def failure(error: grpc.RpcError, address: str, request: Message) -> TwinspireError:
    """A failed call of the catalogue, or of the events, as one of our errors.

    Args:
        error: as gRPC raised it.
        request: that failed; the error has its request id, if it is a write.
    """
    found = error_from(error, address)
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        missing = "records no events; start it with --events"
        if request.DESCRIPTOR.file is wire.DESCRIPTOR:
            missing = "takes no writes; start it with --catalogue"
        found = MissingStage(f"{address}: the service {missing}")
    found.request_id = getattr(request, "request_id", "")
    return found


def _refusal(result: wire.WriteResult) -> tuple[Refusal | None, str]:
    """Why an item was not written, or is not found, with the reason in English."""
    if result.error in _REFUSALS:
        return _REFUSALS[result.error], result.error_text
    text = f"error {result.error} of a newer server, which this client does not know"
    return Refusal.UNKNOWN, f"{text}: {result.error_text}" if result.error_text else text


def _write(item: Item, name: str) -> wire.ItemWrite:
    message = wire.ItemWrite(item=wire.Item(id=item.id, fields=item.fields))
    for feature, value in item.features.items():
        message.item.features[feature].CopyFrom(value_to_wire(value))
    if item.expected_sequence is not None:
        message.expected_sequence = check_range(item.expected_sequence, f"{name}.expected_sequence")
    return message


def state(message: wire.ItemState) -> ItemState:
    """An item as it stands in the catalogue."""
    item = message.item
    features = {name: value_from_wire(value, f"features.{name}") for name, value in item.features.items()}
    origin = _ORIGINS.get(message.origin, Origin.UNKNOWN)
    return ItemState(Item(item.id, features, dict(item.fields)), message.sequence, origin, message.written_at)


def check_range(value: int, name: str, most: int = MAX_SEQUENCE) -> int:
    """Refuse a number that is not in 0 to `most`; returns it.

    Raises:
        InvalidInput: it is not; the field is `name`.
    """
    if not 0 <= value <= most:
        raise InvalidInput(name, f"expected 0 to {most}, got {value}")
    return value


def chosen_request_id(given: str | None) -> str:
    """The given id, or a new one; with an id, a request that is sent again is carried out once.

    Raises:
        InvalidInput: it cannot be sent.
    """
    request_id = given or str(uuid.uuid4())
    with refuse_surrogates("request_id"):
        request_id.encode()
    return request_id
