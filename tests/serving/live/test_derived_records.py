"""Records survive killed writers and damaged files, and readers see whole records alone."""

import os
import stat
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.errors import Unavailable
from serving.live import derived_records
from serving.live import record_format as records
from serving.live.derived_records import RecordReader, RecordWriter, position_of
from serving.live.deriving.derived_bundles import prune
from serving.live.record_format import MARK, POSITION, POSITION_CHECK, RecordOrigin
from serving.live.store.changes import START, Position
from serving.segments.record import Record, RecordKind, RecordsDamaged

ORIGIN = RecordOrigin("a" * 64, "store", 2)
VECTOR = b"12345678"


def item(sequence: int, item_id: str = "", size: int = 10) -> Record:
    return Record(sequence, item_id or f"item {sequence}", RecordKind.ITEM, b"h" * size, b"{}", VECTOR)


def all_of(path: Path) -> tuple[list[Record], int]:
    """The records that a reader finds, and the sequence that it reaches."""
    reader, found, reached = RecordReader(path, ORIGIN), [], 0
    while reader.has_more:
        some, sequence = reader.read()
        found += some
        reached = reached if sequence is None else sequence
    return found, reached


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store" / "bundle.records"


@pytest.fixture
def writer(path: Path) -> RecordWriter:
    return RecordWriter.open(path, ORIGIN)


def test_a_reader_gets_what_was_written(writer: RecordWriter, path: Path) -> None:
    written = [
        item(1),
        Record(2, "größe", RecordKind.DELETED),
        Record(3, "c", RecordKind.FAILED, b"why"),
        item(4, size=records.CHUNK),  # larger than a reader takes at once
        item(5),
    ]
    writer.append(written[:2])
    writer.append(written[2:], 7)
    assert all_of(path) == (written, 7)


def test_a_reader_knows_no_sequence_before_all_of_it_was_read(writer: RecordWriter, path: Path) -> None:
    writer.append([item(n, size=records.CHUNK // 2) for n in range(1, 6)], 5)
    reader = RecordReader(path, ORIGIN)
    states = []
    while reader.has_more:
        some, sequence = reader.read()
        states.append((len(some), sequence))
    assert states == [(1, None)] * 4 + [(1, 5)]
    writer.append([item(6)])  # without a sequence: the deriver reads on
    assert reader.read() == ([item(6)], 5)
    writer.append([], 8)
    assert reader.has_more
    assert reader.read() == ([], 8)
    assert not reader.has_more


def append_one_by_one(path: Path, last: int) -> None:
    """Write items with the sequences up to the last, each announced by itself."""
    writer = RecordWriter.open(path, ORIGIN)
    for n in range(ORIGIN.start + 1, last + 1):
        writer.append([item(n)], n)


def test_a_reader_sees_the_sequence_of_the_records_that_it_reads(writer: RecordWriter, path: Path) -> None:
    writer.close()
    reader, last, reads = RecordReader(path, ORIGIN), 10_000, 0
    process = get_context("spawn").Process(target=append_one_by_one, args=(path, last))
    process.start()
    read = reached = ORIGIN.start
    while process.is_alive() or reader.has_more:
        some, sequence = reader.read()
        read = some[-1].sequence if some else read
        if sequence is not None:  # not a part of what was announced
            reached = sequence
            assert reached == read
        reads += bool(some)
    process.join()
    assert process.exitcode == 0
    assert reached == last
    assert reads > 5


def test_a_writer_that_is_killed_between_the_two_cells_holds_readers_until_the_next_one(
    writer: RecordWriter, path: Path
) -> None:
    writer.append([item(1)], 1)
    writer._cells[records.VERSION] += 1
    writer.append([item(2)])
    reader = RecordReader(path, ORIGIN)
    assert not reader.has_more
    assert reader.read() == ([], None)
    writer.close()
    again = RecordWriter.open(path, ORIGIN)
    assert reader.read() == ([item(1), item(2)], 1)
    again.append([item(3)], 3)
    assert reader.read() == ([item(3)], 3)


def test_what_was_not_announced_is_cut_off(writer: RecordWriter, path: Path) -> None:
    writer.append([item(1), item(2)], 2)
    writer.close()
    with path.open("ab") as file:  # as of a writer that was killed
        file.write(records.packed(item(3))[:-3])
    again = RecordWriter.open(path, ORIGIN)
    assert (again.cursor, again.sequence, again.count) == (2, 2, 2)
    again.append([item(4)], 4)
    assert all_of(path) == ([item(1), item(2), item(4)], 4)


def test_a_writer_that_is_killed_before_it_announces_derives_again(writer: RecordWriter, path: Path) -> None:
    writer.append([item(1)], 1)
    writer.append([item(2), item(3)])
    writer.close()
    again = RecordWriter.open(path, ORIGIN)
    assert (again.cursor, again.sequence) == (3, 1)


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 10**6), value=st.integers(1, 255))
def test_damage_anywhere_is_found_and_what_stands_before_it_is_kept(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "bundle.records"
    written = [item(n) for n in range(1, 20)]
    writer = RecordWriter.open(path, ORIGIN)
    writer.append(written, 19)
    end, generation = writer.length, writer.generation
    writer.close()
    content = bytearray(path.read_bytes())
    at = records.PAGE + place % (end - records.PAGE)
    content[at] ^= value
    path.write_bytes(content)
    with pytest.raises(RecordsDamaged, match=r"the record at byte \d+ is damaged"):
        while True:
            all_of(path)
            RecordReader(path, ORIGIN).read()
    reader = RecordReader(path, ORIGIN)
    again = RecordWriter.open(path, ORIGIN)
    assert again.generation != generation
    assert reader.is_superseded
    assert again.sequence == 0  # unknown until the rest has been derived again
    kept = (at - records.PAGE) // ((end - records.PAGE) // 19) if again.count else 0
    assert again.count <= kept + 1
    again.append(written[again.count :], 19)
    assert all_of(path) == (written, 19)


@pytest.mark.parametrize("length", [0, 100, records.PAGE - 1])
def test_a_file_without_a_header_is_replaced(path: Path, length: int) -> None:
    path.parent.mkdir()
    path.write_bytes(b"x" * length)
    with pytest.raises(RecordsDamaged):
        RecordReader(path, ORIGIN)
    RecordWriter.open(path, ORIGIN).append([], 0)
    assert all_of(path) == ([], 0)


def test_a_length_beyond_the_file_is_not_believed(writer: RecordWriter, path: Path) -> None:
    writer.append([item(1), item(2)], 2)
    writer.close()
    os.truncate(path, path.stat().st_size - 1)  # as after a power failure
    again = RecordWriter.open(path, ORIGIN)
    assert (again.count, again.cursor, again.sequence) == (1, 1, 0)


@pytest.mark.parametrize(
    "other",
    [
        RecordOrigin("b" * 64, "store", 2),
        RecordOrigin("a" * 64, "another", 2),
        RecordOrigin("a" * 64, "store", 3),
        RecordOrigin("a" * 64, "store", 2, 1),
    ],
)
def test_records_of_another_origin_are_replaced(
    writer: RecordWriter, path: Path, other: RecordOrigin
) -> None:
    writer.append([item(1)])
    writer.close()
    with pytest.raises(RecordsDamaged, match="another bundle or store"):
        RecordReader(path, other)
    assert RecordWriter.open(path, other).count == 0


@pytest.mark.parametrize("is_whole", [True, False])
def test_records_of_changes_that_the_store_has_not_made_are_derived_again(
    writer: RecordWriter, path: Path, is_whole: bool
) -> None:
    """Also those that were appended before all up to the position were."""
    writer.expect(Position(3, 77))
    writer.append([item(1, "a"), item(2, "b")], 3 if is_whole else None)
    writer.close()
    asked: list[Position] = []

    def has(position: Position) -> bool:
        asked.append(position)
        return len(asked) == 1

    again = RecordWriter.open(path, ORIGIN, has)
    assert (again.count, again.sequence, again.position) == (2, 3 if is_whole else 0, (3, 77))
    again.close()
    new = RecordWriter.open(path, ORIGIN, has)
    assert (new.count, new.sequence, new.position) == (0, 0, START)
    assert asked == [(3, 77)] * 2


def test_the_position_of_records_outlasts_another_generation(writer: RecordWriter, path: Path) -> None:
    writer.expect(Position(2, 77))
    writer.append([item(1, "a"), item(2, "a")], 2)
    assert position_of(path) == (2, 77)
    writer = writer.compacted()
    assert position_of(path) == writer.position == (2, 77)
    writer.close()
    os.truncate(path, path.stat().st_size - 1)  # as after a power failure
    writer = RecordWriter.open(path, ORIGIN)
    assert (writer.count, writer.position) == (0, (2, 77))
    writer = writer.repaired()
    assert position_of(path) == writer.position == (2, 77)
    path.write_bytes(b"x" * 5000)
    assert position_of(path) is None
    assert position_of(path.with_name("missing")) is None


@pytest.mark.parametrize("cell", [POSITION, MARK, POSITION_CHECK])
def test_a_damaged_position_is_not_known(writer: RecordWriter, path: Path, cell: int) -> None:
    """Else a store would get another id because of a fault on one host."""
    writer.expect(Position(2, 77))
    writer.append([item(1, "a"), item(2, "a")], 2)
    reader = RecordReader(path, ORIGIN)
    writer.close()
    with path.open("r+b") as file:
        file.seek(8 * cell)
        file.write(b"\xff")
    assert position_of(path) is reader.position is None
    again = RecordWriter.open(path, ORIGIN)
    assert (again.count, again.position) == (0, START)
    again.close()


def test_there_is_one_writer(writer: RecordWriter, path: Path) -> None:
    with pytest.raises(Unavailable, match="another process writes this file"):
        RecordWriter.open(path, ORIGIN)
    writer.close()
    RecordWriter.open(path, ORIGIN).close()


def test_there_is_one_writer_while_the_file_is_replaced(writer: RecordWriter, path: Path) -> None:
    """Neither a file that was opened before it was replaced nor a missing one lets a second writer in."""
    new = writer.compacted()
    path.rename(path.with_name("aside"))
    with pytest.raises(Unavailable, match="another process writes this file"):
        RecordWriter.open(path, ORIGIN)
    assert not path.exists()
    new.close()
    RecordWriter.open(path, ORIGIN).close()


def test_a_writer_that_cannot_begin_leaves_the_records_to_others(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        RecordWriter.open(path, ORIGIN)
    path.rmdir()
    RecordWriter.open(path, ORIGIN).close()


def test_drafts_of_a_writer_that_was_killed_are_removed(path: Path) -> None:
    path.parent.mkdir()
    drafts = [path.with_name(f".{path.name}-x1"), path.with_name(f".{path.stem}.01.graph-ab")]
    other = path.with_name(".another.records-x1")
    for each in (*drafts, other):
        each.touch()
    RecordWriter.open(path, ORIGIN).close()
    assert [each.exists() for each in (*drafts, other)] == [False, False, True]


def test_records_that_were_not_used_for_longest_are_removed(tmp_path: Path) -> None:
    origins = [RecordOrigin(str(n) * 64, "store", 2) for n in range(5)]
    paths = [records.records_path(tmp_path, origin) for origin in origins]
    writers = [RecordWriter.open(*each) for each in zip(paths, origins, strict=True)]
    for n, path in enumerate(paths):
        os.utime(path, (n, n))
        path.with_name(f"{path.stem}.0123.graph").touch()
    for n in (1, 2, 3, 4):
        writers[n].close()
    folder = tmp_path / "store"
    prune(folder, most=2, older_than=float("inf"))
    assert {path for path in paths if path.exists()} == {paths[0], paths[3], paths[4]}  # 0 is being written
    assert len([*folder.iterdir()]) == 9  # each with its graph and its lock
    prune(folder, keep={origins[3].bundle_version})
    assert {path for path in paths if path.exists()} == {paths[0], paths[3]}
    assert len([*folder.iterdir()]) == 6
    os.utime(paths[3])
    prune(folder)
    assert paths[3].exists()


def test_what_killed_processes_have_left_is_removed_when_it_is_old(path: Path) -> None:
    RecordWriter.open(path, ORIGIN).close()
    folder = path.parent
    gone, kept = "c" * 64, "b" * 64
    names = [f".{gone}.records-xy", f"{gone}.01.graph", f".{gone}.01.graph-ab", f"{gone}.01.damaged"]
    old = [folder / each for each in names]
    young, named = folder / f".{gone}.records-new", folder / f"{kept}.01.graph"
    own = path.with_name(f"{path.stem}.01.graph")
    lock = folder / f"{gone}.lock"  # another process may hold it
    for each in (*old, young, named, own, lock):
        each.touch()
        os.utime(each, (1, 1))
    os.utime(young)
    prune(folder, keep={kept})
    assert [each.exists() for each in old] == [False] * 4
    assert all(each.exists() for each in (young, named, own, lock, path))


def test_a_compacted_file_has_the_latest_record_of_each_item(writer: RecordWriter, path: Path) -> None:
    writer.append([item(n, f"item {n % 3}") for n in range(1, 30)])
    same = Record(30, "item 1", RecordKind.SAME, b"new", b"{}", VECTOR)
    writer.append([same, Record(31, "gone", RecordKind.DELETED)], 40)
    reader = RecordReader(path, ORIGIN)
    new = writer.compacted()
    assert reader.is_superseded
    assert (new.cursor, new.count, len(new.latest)) == (40, 4, 4)
    item_one = Record(30, "item 1", RecordKind.ITEM, b"new", b"{}", VECTOR)
    expected = [item(27, "item 0"), item(29, "item 2"), item_one, Record(31, "gone", RecordKind.DELETED)]
    assert all_of(path) == (expected, 40)
    new.append([item(41)], 41)
    assert all_of(path) == ([*expected, item(41)], 41)
    with pytest.raises(Unavailable):
        RecordWriter.open(path, ORIGIN)


def test_progress_is_noticed_while_a_file_is_written_anew(
    writer: RecordWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that commits does it, and its supervisor would take it for dead."""
    for module in (derived_records, records):
        monkeypatch.setattr(module, "CHUNK", 1000)
    writer.append([item(n, size=500) for n in range(1, 21)], 20)
    seen: list[int] = []
    writer = writer.compacted(lambda: seen.append(1))
    assert len(seen) == 10
    seen.clear()
    writer.repaired(lambda: seen.append(1))  # it reads all of it, and finds no damage
    assert len(seen) >= 10


@pytest.mark.parametrize("mask", [0o077, 0o022])
def test_records_have_the_mode_that_the_umask_allows(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        RecordWriter.open(tmp_path / "records", ORIGIN)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "records").stat().st_mode) == 0o666 & ~mask
