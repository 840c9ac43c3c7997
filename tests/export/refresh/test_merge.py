"""What of a catalogue is encoded, kept or left out, by its content."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.refreshing import resealed
from tests.helpers.tiny import tiny_bundle
from twinspire.export.encoding.digests import digest, item_digests, read_digests
from twinspire.export.refresh.merge import Champion, merge
from twinspire.export.refresh.sources import ItemChange, SnapshotState, TableItem
from twinspire.protos import bundle
from twinspire.protos.bundle import Snapshot
from twinspire.protos.errors import BundleDamaged, DataError, InvalidInput
from twinspire.protos.features import CategoryFeature, IdFeature, NumberFeature, Schema, TextFeature

INPUTS = Schema(
    {"text": TextFeature("text", "query")},
    {
        "text": TextFeature("text", "text", max_length=8),
        "kinds": CategoryFeature("category", "kinds", multi=True),
        "price": NumberFeature("number", "price"),
        "self": IdFeature("id"),
    },
    {"item.kinds": ("a", "b"), "items": ("1", "2")},
).side("item")
ITEM: dict[str, Any] = {"text": "Lämp two", "kinds": ["a"], "price": 2.0, "self": "1"}


def test_a_digest_is_that_of_what_the_tower_reads() -> None:
    same = digest(INPUTS, ITEM)
    assert digest(INPUTS, {**ITEM, "text": "lÄMP two and more than it reads"}) == same
    assert digest(INPUTS, {**ITEM, "price": 2}) == same
    for changed in (
        {"text": "lamp two"},
        {"kinds": ["b"]},
        {"kinds": ["a", "b"]},
        {"price": None},
        {"self": "2"},
    ):
        assert digest(INPUTS, {**ITEM, **changed}) != same
    # Items that the tower has not learned are the same to it.
    assert digest(INPUTS, {**ITEM, "self": "8"}) == digest(INPUTS, {**ITEM, "self": "9"})
    with pytest.raises(InvalidInput, match="text"):
        digest(INPUTS, {**ITEM, "text": None})
    columns = {name: [value, value] for name, value in ITEM.items()}
    assert item_digests(INPUTS, columns).tobytes() == 2 * same


@pytest.fixture
def champion(tmp_path: Path) -> Champion:
    folder = tiny_bundle(tmp_path, items=20)
    return Champion.read(folder, bundle.read(folder))


def state(*changes: ItemChange) -> SnapshotState:
    return SnapshotState(Snapshot("store", 99), changes)


def test_items_that_are_refused_are_left_out(champion: Champion) -> None:
    changes = state(
        ItemChange(1, "new-1", False, {"text": "bavuti"}, {"name": "one"}),
        ItemChange(2, "item-004", False, {"text": "xelike"}, {}),
        ItemChange(3, "new-2", False, {"text": "sotira"}, {"name": "two"}),
    )
    found = merge(champion, None, changes)
    assert (found.fresh_count, found.new, found.fresh["text"]) == (3, 2, ["xelike", "bavuti", "sotira"])
    refused = {"new-1": "not finite", "item-004": "not finite"}
    left = merge(champion, None, changes, refused)
    assert (left.new, left.failed, left.deleted, left.fresh["text"]) == (1, refused, 1, ["sotira"])
    assert left.items.ids[-1] == "new-2" and left.items.fields["name"][-1] == "two"
    assert len(left.items.digests) == len(left.items.popularity) == left.counts()["items"] == 20


def test_the_champion_without_changes_is_the_catalogue(champion: Champion) -> None:
    assert merge(champion, None, None).is_unchanged
    assert merge(champion, None, state(ItemChange(1, "unknown", True, {}, {}))).is_unchanged
    assert not merge(champion, None, state(ItemChange(1, "item-001", True, {}, {}))).is_unchanged
    with pytest.raises(DataError, match="no item is left"):
        merge(champion, {}, None)


def test_an_item_that_was_deleted_and_is_in_the_table_stays_deleted(champion: Champion) -> None:
    table = {name: TableItem({"text": name}, {"name": name, "section": None}, {}) for name in ("a", "b")}
    found = merge(champion, table, state(ItemChange(1, "a", True, {}, {})))
    assert (found.items.ids, found.new, found.deleted) == (["b"], 1, 20)


def test_digests_that_are_not_one_for_each_item_are_damage(champion: Champion, tmp_path: Path) -> None:
    assert read_digests(champion.folder, champion.manifest) is None
    for content in (np.zeros((3, 16), np.uint8), np.zeros((20, 16), np.int8)):
        folder = resealed(champion.folder, tmp_path / "other", content)
        with pytest.raises(BundleDamaged, match="expected uint8"):
            read_digests(folder, bundle.read(folder))
