"""The files of the served log: what they hold, their bounds, and the deletion of a user."""

import hmac
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.helpers.limited import files_limited_to
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.files.served_log import COLUMNS
from twinspire.serving.client import where
from twinspire.serving.served_log.columns import Row, to_table
from twinspire.serving.served_log.log_folder import DAY_NANOSECONDS, LogFolder, hour_of
from twinspire.serving.served_log.sampling import LoggedQuery
from twinspire.serving.wire.filter_converters import filter_to_wire

NOW = time.time_ns()


def row(number: int, user: str | None = None, nanoseconds: int = NOW, **fields: Any) -> Row:
    hits = [wire.Hit(id=f"item-{n}", score=1 / (1 + n)) for n in range(3)]
    message = wire.SearchResponse(hits=hits, bundle_version="abc", request_id=f"r{number}", **fields)
    answer = message.SerializeToString()
    return LoggedQuery(nanoseconds, user, {"color": "red"}, 3, b"", None), answer


def write(folder: LogFolder, rows: Sequence[Row]) -> Path:
    first = rows[0][0].time
    hour = hour_of(first)
    table = to_table(rows, lambda user: folder.digest(user, hour[:10]))
    return folder.write(table, hour, first)


@pytest.fixture
def folder(tmp_path: Path) -> LogFolder:
    return LogFolder(tmp_path)


def test_a_row_has_the_columns_of_the_contract(folder: LogFolder) -> None:
    query, answer = row(7, "u7", sequence=12, explored=True, propensities=[0.5, 0.25, 1.0])
    condition = filter_to_wire(where.price < 5.0).SerializeToString()
    query = query._replace(filter=condition, candidates=(["item-0", "item-1"], [1.0, 0.5], 0.05))
    query = query._replace(measures=[0.5, 2.0])
    path = write(folder, [(query, answer), row(8)])
    table = pq.read_table(path)
    assert {
        each.name: str(each.type).replace("element: ", "").replace("item: ", "") for each in table.schema
    } == COLUMNS
    first, second = table.to_pylist()
    assert first.pop("user") == hmac.digest(salt(folder, 0), b"u7", "sha256").hex()[:32]
    assert abs(first.pop("time").timestamp() - NOW / 1e9) < 1e-3
    assert first.pop("scores") == pytest.approx([1, 1 / 2, 1 / 3])
    assert first == {
        "request_id": "r7",
        "bundle": "abc",
        "sequence": 12,
        "measures": [0.5, 2.0],
        "comparable": False,
        "query": '{"color": "red"}',
        "k": 3,
        "filter": "'price' < 5.0",
        "item_ids": ["item-0", "item-1", "item-2"],
        "weak": False,
        "propensities": [0.5, 0.25, 1.0],
        "candidate_ids": ["item-0", "item-1"],
        "candidate_scores": [1.0, 0.5],
        "temperature": 0.05,
        "challenger": None,
        "teams": None,
    }
    absent = {name for name, value in second.items() if value is None}
    assert absent == {
        *("user", "filter", "sequence", "propensities", "candidate_ids", "candidate_scores"),
        *("temperature", "challenger", "teams", "measures"),
    }


def salt(folder: LogFolder, days_ago: int) -> bytes:
    day = hour_of(NOW - days_ago * DAY_NANOSECONDS)[:10]
    return (folder.root / "salts" / day).read_bytes()


def test_files_whose_first_rows_have_one_time_are_two(folder: LogFolder) -> None:
    paths = {write(folder, [row(1)]), write(folder, [row(2)])}
    assert sorted(pq.read_table(each)["request_id"].to_pylist() for each in paths) == [["r1"], ["r2"]]


def test_each_day_has_a_salt_that_its_owner_alone_can_read(folder: LogFolder) -> None:
    digests = [folder.digest("u", day) for day in ("2026-12-01", "2026-12-02", "2026-12-01")]
    assert digests[0] == digests[2] != digests[1]
    assert LogFolder(folder.root).digest("u", "2026-12-01") == digests[0]
    salts = [*(folder.root / "salts").iterdir()]
    assert {each.stat().st_mode & 0o777 for each in salts} == {0o600}
    assert len({each.read_bytes() for each in salts}) == 2


def test_old_files_go_and_with_the_last_one_of_a_day_its_salt(folder: LogFolder) -> None:
    paths = [write(folder, [row(n, "u", NOW - n * DAY_NANOSECONDS)]) for n in range(5)]
    assert folder.prune(days=3.1, most=10**9) == sum(path.stat().st_size for path in paths[:4])
    assert [path.exists() for path in paths] == [True, True, True, True, False]
    days = {path.parent.name[:10] for path in paths[:4]}
    assert {each.name for each in (folder.root / "salts").iterdir()} == days
    assert {each.name for each in folder.root.iterdir()} == {
        "salts",
        *(path.parent.name for path in paths[:4]),
    }


def test_the_oldest_files_go_if_there_are_too_many_bytes(folder: LogFolder) -> None:
    paths = [write(folder, [row(n, "u", NOW - n * DAY_NANOSECONDS)]) for n in range(4)]
    size = sum(path.stat().st_size for path in paths[:2])
    assert folder.prune(days=100, most=size) == size
    assert [path.exists() for path in paths] == [True, True, False, False]


def test_pruning_touches_no_foreign_files(folder: LogFolder) -> None:
    (folder.root / "notes.txt").write_text("mine")
    (folder.root / "TMP").mkdir()
    (folder.root / "TMP" / "a.parquet").write_text("mine")
    folder.prune(days=1, most=0)
    assert (folder.root / "TMP" / "a.parquet").exists()
    assert (folder.root / "notes.txt").exists()


def test_the_rows_of_a_user_are_deleted_on_each_day(folder: LogFolder) -> None:
    paths = [
        write(folder, [row(n, user, NOW - n * DAY_NANOSECONDS) for user in ("u", "v", None, "u")])
        for n in range(3)
    ]
    alone = write(folder, [row(9, "u", NOW - 10**9)])
    untouched = write(folder, [row(9, "v", NOW - 2 * 10**9)])
    before = untouched.stat()
    assert folder.delete_user("u") == 7
    assert folder.delete_user("u") == 0
    assert not alone.exists()
    assert untouched.stat() == before
    for n, path in enumerate(paths):
        day = hour_of(NOW - n * DAY_NANOSECONDS)[:10]
        assert pq.read_table(path)["user"].to_pylist() == [folder.digest("v", day), None]


def test_a_full_disk_leaves_no_part_of_a_file(folder: LogFolder) -> None:
    folder.digest("u", hour_of(NOW)[:10])
    with files_limited_to(100), pytest.raises(OSError, match="too large"):
        write(folder, [row(1, "u")])
    assert [*folder.root.glob("*T*/*"), *folder.root.glob("*T*/.*")] == []
    assert write(folder, [row(1, "u")]).stat().st_size > 100


def test_salts_and_folders_of_today_and_drafts_of_salts_stay(folder: LogFolder) -> None:
    folder.digest("u", hour_of(NOW + 2 * DAY_NANOSECONDS)[:10])  # as of a day that begins meanwhile
    folder.digest("u", hour_of(NOW - 5 * DAY_NANOSECONDS)[:10])
    draft = folder.root / "salts" / ".2026-12-01-abcdabcd"
    draft.write_bytes(b"half")
    hour = folder.root / hour_of(NOW - DAY_NANOSECONDS // 2)
    hour.mkdir()
    folder.delete_user("u")
    assert hour.exists()
    assert {each.name for each in draft.parent.iterdir()} == {
        draft.name,
        hour_of(NOW + 2 * DAY_NANOSECONDS)[:10],
    }


def test_drafts_go_with_the_next_start_or_the_next_deletion(folder: LogFolder) -> None:
    path = write(folder, [row(1, "v")])
    rewritten = path.with_name(f".{path.name}-abcdabcd")
    new = path.with_name(".17-1.parquet-abcdabcd")
    for each in (rewritten, new):
        each.write_bytes(b"rows")
    folder.delete_user("u")
    assert (rewritten.exists(), new.exists()) == (False, True), "the service may be writing the other"
    folder.delete_drafts(of_rewritten=False)
    assert [*path.parent.iterdir()] == [path]
