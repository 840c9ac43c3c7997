"""Converts stored items to messages of the wire."""

from collections.abc import Iterable, Mapping, Sequence

from twinspire.protos import catalogue_pb2 as wire
from twinspire.serving.live.store.store import StoredItem
from twinspire.serving.wire.converters import value_to_wire


def get_response(ids: Sequence[str], found: Mapping[str, StoredItem], sequence: int) -> wire.GetResponse:
    """Items as the store holds them, one for each id."""
    response = wire.GetResponse(sequence=sequence)
    for item_id in ids:
        stored = found.get(item_id)
        if stored is None:
            response.items.add(item=wire.Item(id=item_id), origin=wire.ITEM_UNKNOWN)
        else:
            _fill_state(response.items.add(), stored)
    return response


def changes_response(
    changes: Iterable[StoredItem], sequence: int, store_id: str, max_bytes: int
) -> wire.ChangesResponse:
    """A part of the feed: of these changes as many as fit, and at least one if there is one."""
    response = wire.ChangesResponse(sequence=sequence, store_id=store_id)
    size = 0
    for each in changes:
        state = wire.ItemState()
        _fill_state(state, each)
        size += state.ByteSize()
        if response.changes and size > max_bytes:
            break
        response.changes.append(state)
    return response


def _fill_state(state: wire.ItemState, stored: StoredItem) -> None:
    """Fill a message with an item as the store holds it."""
    change = stored.change
    state.item.id = change.item_id
    state.sequence, state.written_at = change.sequence, stored.written_at
    state.origin = wire.ITEM_DELETED if change.deleted else wire.ITEM_LIVE
    for name, value in change.features.items():
        if value is not None:
            state.item.features[name].CopyFrom(value_to_wire(value))
    for name, text in change.fields.items():
        state.item.fields[name] = text
