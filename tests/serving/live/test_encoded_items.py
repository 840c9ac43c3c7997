"""Encoded items survive killed writers and damaged files, and readers see whole states alone."""

import os
import sqlite3
import stat
from contextlib import closing
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pytest

from tests.helpers.waiting import wait_until
from twinspire.serving.live import encoded_items as module
from twinspire.serving.live.encoded_items import (
    EncodedItemsReader,
    EncodedItemsWriter,
    EncodedOrigin,
    folder_of,
    latest_generation,
    position_of,
)
from twinspire.serving.live.encoding.bundle_encoders import prune
from twinspire.serving.live.store.records import START, Position
from twinspire.serving.segments.packed_items import EncodedItem, EncodedItemsDamaged, EncodedKind

ORIGIN = EncodedOrigin("a" * 64, "store", 2)
VECTOR = b"12345678"


def at(sequence: int) -> Position:
    return Position(sequence, 77)


def item(sequence: int, item_id: str = "", size: int = 10) -> EncodedItem:
    item_id = item_id or f"item {sequence}"
    return EncodedItem(sequence, item_id, EncodedKind.ITEM, b"h" * size, b"{}", VECTOR)


def read_all(reader: EncodedItemsReader) -> tuple[list[EncodedItem], int]:
    """The items that a reader finds, and the sequence that it reaches."""
    found, reached = list[EncodedItem](), 0
    while reader.has_more:
        some, sequence = reader.read()
        found += some
        reached = reached if sequence is None else sequence
    return found, reached


def all_of(folder: Path) -> tuple[list[EncodedItem], int]:
    return read_all(EncodedItemsReader(folder, ORIGIN))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store" / "bundle"


@pytest.fixture
def writer(folder: Path) -> EncodedItemsWriter:
    return EncodedItemsWriter(folder, ORIGIN)


def test_a_reader_gets_what_was_written(writer: EncodedItemsWriter, folder: Path) -> None:
    written = [
        item(1),
        EncodedItem(2, "größe", EncodedKind.DELETED),
        EncodedItem(3, "c", EncodedKind.FAILED, b"why"),
        item(4, size=1 << 20),
        item(5),
    ]
    writer.append(written[:2], at(5), is_complete=False)
    writer.append(written[2:], at(7))
    assert all_of(folder) == (written, 7)
    assert writer.failures == {3: "why"}
    assert (writer.items, writer.live_items) == (5, 3)


def test_a_reader_knows_no_sequence_before_all_of_it_was_read(
    writer: EncodedItemsWriter, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_ROWS", 2)
    writer.append([item(n) for n in range(1, 6)], at(5))
    reader = EncodedItemsReader(folder, ORIGIN)
    states = []
    while reader.has_more:
        some, sequence = reader.read()
        states.append((len(some), sequence))
    assert states == [(2, None), (2, None), (1, 5)]
    writer.append([item(6)], at(8), is_complete=False)
    assert reader.read() == ([item(6)], 5)
    writer.append([], at(8))
    assert reader.has_more
    assert reader.read() == ([], 8)
    assert not reader.has_more


def append_one_by_one(folder: Path, last: int) -> None:
    """Write items with the sequences up to the last, each in a transaction of its own."""
    writer = EncodedItemsWriter(folder, ORIGIN)
    for n in range(writer.state.sequence + 1, last + 1):
        writer.append([item(n)], at(n))


def test_a_writer_may_be_killed_at_any_time(writer: EncodedItemsWriter, folder: Path) -> None:
    writer.close()
    reader, found = EncodedItemsReader(folder, ORIGIN), list[EncodedItem]()

    def has_read(enough: int) -> bool:
        some, sequence = reader.read()
        found.extend(some)
        assert sequence in (None, len(found))  # that of the rows which were read with it
        return len(found) >= enough

    for enough in (100, 300, 500):
        process = get_context("spawn").Process(target=append_one_by_one, args=(folder, 10**6), daemon=True)
        process.start()
        wait_until(partial(has_read, enough))
        process.kill()
        process.join()
        found += read_all(reader)[0]
    with closing(EncodedItemsWriter(folder, ORIGIN)) as again:
        assert again.state.sequence == again.state.last_id == again.cursor == len(found)
        assert found == [item(n) for n in range(1, len(found) + 1)]
        assert not reader.is_superseded


def test_a_writer_that_is_killed_before_it_has_all_goes_on_from_there(
    writer: EncodedItemsWriter, folder: Path
) -> None:
    writer.append([item(1)], at(1))
    writer.append([item(2), item(3)], at(5), is_complete=False)
    writer.close()
    again = EncodedItemsWriter(folder, ORIGIN)
    assert (again.cursor, again.state.sequence, again.state.position) == (3, 1, at(5))


@pytest.mark.parametrize("content", [b"", b"this is not a database" * 1000])
def test_a_file_that_is_no_database_is_replaced(folder: Path, content: bytes) -> None:
    folder.mkdir(parents=True)
    (folder / "5.db").write_bytes(content)
    with pytest.raises(EncodedItemsDamaged):
        EncodedItemsReader(folder, ORIGIN)
    assert position_of(folder) is None
    EncodedItemsWriter(folder, ORIGIN)
    assert all_of(folder) == ([], 0)
    assert not (folder / "5.db").exists()


def test_a_row_that_is_missing_is_noticed(writer: EncodedItemsWriter, folder: Path) -> None:
    writer.append([item(1), item(2)], at(2))
    with closing(sqlite3.connect(folder / f"{writer.generation}.db")) as other:
        other.execute("DELETE FROM encoded WHERE id = 2")
        other.commit()
    with pytest.raises(EncodedItemsDamaged):
        all_of(folder)
    writer.close()
    assert EncodedItemsWriter(folder, ORIGIN).state.last_id == 0


@pytest.mark.parametrize(
    "other",
    [
        EncodedOrigin("b" * 64, "store", 2),
        EncodedOrigin("a" * 64, "store", 2, 1),
    ],
)
def test_items_of_another_origin_are_replaced(
    writer: EncodedItemsWriter, folder: Path, other: EncodedOrigin
) -> None:
    writer.append([item(1)], at(1))
    writer.close()
    with pytest.raises(EncodedItemsDamaged, match="of another bundle, store or format"):
        EncodedItemsReader(folder, other)
    assert EncodedItemsWriter(folder, other).state.last_id == 0


@pytest.mark.parametrize("is_whole", [True, False])
def test_items_of_changes_that_the_store_has_not_made_are_encoded_again(
    writer: EncodedItemsWriter, folder: Path, is_whole: bool
) -> None:
    """Also those that were added before all up to the position were."""
    writer.append([item(1, "a"), item(2, "b")], at(3), is_whole)
    writer.close()
    asked: list[Position] = []

    def has(position: Position) -> bool:
        asked.append(position)
        return len(asked) == 1

    again = EncodedItemsWriter(folder, ORIGIN, has)
    assert (again.state.last_id, again.state.sequence) == (2, 3 if is_whole else 0)
    again.close()
    new = EncodedItemsWriter(folder, ORIGIN, has)
    assert (new.state.last_id, new.state.sequence, new.state.position) == (0, 0, START)
    assert asked == [at(3)] * 2


def test_the_position_outlasts_another_generation(writer: EncodedItemsWriter, folder: Path) -> None:
    writer.append([item(1, "a"), item(2, "a")], at(2))
    assert position_of(folder) == at(2)
    writer.compact()
    assert position_of(folder) == writer.state.position == at(2)
    assert position_of(folder.with_name("missing")) is None


def test_a_full_disk_adds_nothing_and_the_next_call_may_succeed(
    writer: EncodedItemsWriter, folder: Path
) -> None:
    writer.append([item(1)], at(1))
    connection = writer._connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(OSError, match="database or disk is full") as caught:
        writer.append([item(2, size=100_000)], at(2))
    assert str(folder) not in str(caught.value.strerror)
    assert (writer.state.last_id, writer.cursor) == (1, 1)
    assert all_of(folder) == ([item(1)], 1)
    connection.execute("PRAGMA max_page_count = 1000000")
    writer.append([item(2, size=100_000)], at(2))
    assert all_of(folder) == ([item(1), item(2, size=100_000)], 2)


def test_a_file_that_a_reader_has_removed_is_begun_anew(writer: EncodedItemsWriter, folder: Path) -> None:
    writer.append([item(1)], at(1))
    assert not writer.is_removed
    EncodedItemsReader(folder, ORIGIN).remove()
    assert writer.is_removed
    with pytest.raises(FileNotFoundError):
        EncodedItemsReader(folder, ORIGIN)
    writer.begin()
    assert not writer.is_removed
    assert all_of(folder) == ([], 0)


def test_what_killed_writers_have_left_is_removed(folder: Path) -> None:
    EncodedItemsWriter(folder, ORIGIN).close()
    graph = folder / f"{latest_generation(folder)}.graph"
    names = ["5.graph", "5.db-wal", f"{graph.name}-ab", ".5.db-ab"]
    for each in (*(folder / name for name in names), graph):
        each.touch()
    writer = EncodedItemsWriter(folder, ORIGIN)
    assert graph.exists()
    assert not (folder / f"{graph.name}-ab").exists()
    assert not (folder / ".5.db-ab").exists()
    writer.begin()
    writer.close()
    assert {each.name for each in folder.iterdir()} == {f"{writer.generation}.db"}


def test_items_that_were_not_used_for_longest_are_removed(tmp_path: Path) -> None:
    origins = [EncodedOrigin(str(n) * 64, "store", 2) for n in range(5)]
    folders = [folder_of(tmp_path, origin) for origin in origins]
    writers = [EncodedItemsWriter(*each) for each in zip(folders, origins, strict=True)]
    for each in writers:
        each.close()
    for n, folder in enumerate(folders):
        for path in (*folder.iterdir(), folder):
            os.utime(path, (n + 1, n + 1))
    store = tmp_path / "store"
    (store / ".lock").touch()
    prune(store, keep={origins[0].bundle_version}, most=2)
    assert {*store.iterdir()} == {folders[0], *folders[3:], store / ".lock"}
    prune(store)
    assert {*store.iterdir()} == {store / ".lock"}


def test_a_new_generation_has_the_latest_row_of_each_item(writer: EncodedItemsWriter, folder: Path) -> None:
    writer.append([item(n, f"item {n % 3}") for n in range(1, 30)], at(29))
    same = EncodedItem(30, "item 1", EncodedKind.SAME, b"new", b"{}", VECTOR)
    writer.append([same, EncodedItem(31, "gone", EncodedKind.DELETED)], at(40))
    reader = EncodedItemsReader(folder, ORIGIN)
    writer.compact()
    assert reader.is_superseded
    assert len(read_all(reader)[0]) == 31  # readers may still have the earlier one open
    assert (writer.cursor, writer.state.last_id, writer.items, writer.live_items) == (40, 4, 4, 3)
    item_one = EncodedItem(30, "item 1", EncodedKind.ITEM, b"new", b"{}", VECTOR)
    gone = EncodedItem(31, "gone", EncodedKind.DELETED)
    expected = [item(27, "item 0"), item(29, "item 2"), item_one, gone]
    assert all_of(folder) == (expected, 40)
    writer.append([item(41)], at(41))
    assert all_of(folder) == ([*expected, item(41)], 41)


def test_an_item_has_the_same_vector_and_terms_or_not(writer: EncodedItemsWriter, folder: Path) -> None:
    writer.append([item(1, "a"), EncodedItem(2, "b", EncodedKind.DELETED)], at(2))
    writer.close()
    again = EncodedItemsWriter(folder, ORIGIN)
    assert again.is_same("a", VECTOR, b"")
    assert not again.is_same("a", VECTOR, b"term")
    assert not again.is_same("a", VECTOR[1:], b"")
    assert not again.is_same("b", b"", b"")
    assert not again.is_same("c", VECTOR, b"")


def test_a_reader_opens_a_file_that_nobody_writes(writer: EncodedItemsWriter, folder: Path) -> None:
    writer.append([item(1)], at(1))
    writer.close()
    assert [each.name for each in folder.glob("*-wal")] == []
    reader = EncodedItemsReader(folder, ORIGIN)
    assert read_all(reader) == ([item(1)], 1)
    with closing(EncodedItemsWriter(folder, ORIGIN)) as again:
        again.append([item(2)], at(2))
        assert read_all(reader) == ([item(2)], 2)


def test_files_have_the_mode_that_the_umask_allows(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        writer = EncodedItemsWriter(tmp_path / "items", ORIGIN)
        writer.append([item(1)], at(1))
    finally:
        os.umask(before)
    paths = [*(tmp_path / "items").glob("*.db*")]
    assert len(paths) == 3
    assert {stat.S_IMODE(each.stat().st_mode) for each in paths} == {0o644}
