"""Rows of files: how they are read, counted, and cut into the parts of requests."""

from pathlib import Path

import pytest

from twinspire.protos.errors import DataError, InvalidInput
from twinspire.serving.client import rows
from twinspire.serving.client.rows import count_rows, in_parts, named_by_row, read_rows


def test_rows_have_the_numbers_of_their_lines_or_of_the_tables_rows(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_bytes(b'\xef\xbb\xbfid,text\r\na,"one\r\ntwo, ""three"""\r\nb,\r\n')
    expected = [(1, {"id": "a", "text": 'one\r\ntwo, "three"'}), (2, {"id": "b", "text": ""})]
    assert [*read_rows(path)] == expected
    path = tmp_path / "items.jsonl"
    path.write_text('\ufeff{"id": 1}\n\n{"id": 2}\n', encoding="utf-8")
    assert [*read_rows(path)] == [(1, {"id": 1}), (3, {"id": 2})]
    assert count_rows(path) == 2
    path = tmp_path / "queries"
    path.write_text("a, b\r\n \nc", encoding="utf-8")
    assert [*read_rows(path, texts=True)] == [(1, {"text": "a, b"}), (3, {"text": "c"})]
    with pytest.raises(DataError, match="expected a name that ends in one of"):
        [*read_rows(path)]
    assert count_rows(Path("/dev/null"), texts=True) is None  # it may be read only once


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("items.csv", b"id,text\na,\xff\n", r"items\.csv: after line \d: 'utf-8' codec"),
        ("items.csv", b'id,text\na,"b\n', r"items\.csv: line \d: unexpected end of data; is each quote"),
        ("items.csv", b'id,text\na,"' + b"x" * 100_001 + b'"', r"line \d: field larger than field limit"),
        ("items.jsonl", b'{"id": "a"}\n\xff\n', r"items\.jsonl: row 2: 'utf-8' codec"),
        ("items.jsonl", b"{}\n{}" + b" " * 99_999, r"row 2: expected a line of at most 100000 bytes"),
        ("items.jsonl", b"[" * 100_000, r"items\.jsonl: row 1: arrays and objects are nested more than 64"),
    ],
)
def test_a_damaged_row_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, expected: str
) -> None:
    monkeypatch.setattr(rows, "LONGEST_CELL", 100_000)
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=expected):
        [*read_rows(path)]


@pytest.mark.parametrize("letter", ["x", "\u00e9", "\u8449", "\U0001f3ee"])
def test_parts_are_bounded_by_bytes_and_not_by_characters(
    letter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "PART_BYTES", 1000)
    text = letter * -(-500 // len(letter.encode()))
    numbered = iter([(n, {"item_id": f"{n}", "text": text}) for n in range(1, 8)])
    assert [len(part) for part in in_parts(numbered, 100)] == [2, 2, 2, 1]
    list(in_parts(iter([(1, {"text": "\ud800"})]), 100))  # the client names what it cannot send


def test_a_key_stands_in_a_part_once_and_errors_name_the_row() -> None:
    numbered = [(n, {"id": name}) for n, name in ((1, "a"), (4, "b"), (5, "a"), (6, "c"))]
    parts = [*in_parts(iter(numbered), 2, lambda row: row["id"])]
    assert parts == [numbered[:2], numbered[2:]]
    named = named_by_row(InvalidInput("items[1].item.id", "is bad"), Path("t.csv"), parts[0], "items")
    assert str(named) == "t.csv: row 4: item.id: is bad"
    whole = named_by_row(InvalidInput("items[0]", "is bad"), Path("t.csv"), parts[0], "items")
    assert str(whole) == "t.csv: row 1: is bad"
    for field in ("mode", "items[2].id", "items[-1]", "items[" + "9" * 5000 + "]", "items[1", "its.items[1]"):
        other = InvalidInput(field, "is bad")  # whatever a server answers
        assert named_by_row(other, Path("t.csv"), parts[0], "items") is other
