"""Delimited text of other kinds: MovieLens's `::`, files without a header."""

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.sources import source_context
from twinspire.protos.errors import DataError
from twinspire.protos.features import CategoryFeature, HistoryFeature, IdFeature, TextFeature
from twinspire.protos.toml_config import parse
from twinspire.train.data.layouts import Layout
from twinspire.train.data.source import Tables
from twinspire.train.data.sources.events import EventsData, EventsSource
from twinspire.train.data.table_files import read_table

ITEM = {
    "id": IdFeature("id"),
    "title": TextFeature("text", "title"),
    "class": CategoryFeature("category", "class", multi=True),
}


def write(folder: Path, name: str, content: str, encoding: str = "utf-8") -> Path:
    (folder / name).write_bytes(content.encode(encoding))
    return folder / name


def events(folder: Path, item: Any = ITEM, **data: Any) -> Tables:
    section = parse({"kind": "events", **data}, EventsData)
    return EventsSource(section, source_context(folder, {"history": HistoryFeature("history")}, item)).read()


def test_movielens_1m_is_read_with_names_from_the_toml(tmp_path: Path) -> None:
    write(tmp_path, "ratings.dat", "1::7::5::978300760\n1::8::3::978302109\n")
    write(tmp_path, "movies.dat", '7::Misérables, "Les" (1995)::Drama|War\n8::Up::Comedy\n', "latin-1")
    layouts = {
        "ratings.dat": {"columns": ["user_id", "item_id", "rating", "at"]},
        "movies.dat": {"columns": ["item_id", "title", "class"], "encoding": "latin-1"},
    }
    tables = events(
        tmp_path,
        events="ratings.dat",
        items="movies.dat",
        time="at",
        label="rating",
        positive_from=4,
        layouts=layouts,
    )
    assert tables.items["title"].to_list() == ['Misérables, "Les" (1995)', "Up"]
    assert tables.items["class"].to_list() == [["Drama", "War"], ["Comedy"]]
    assert tables.pairs.collect().select("item_row", "label").rows() == [(0, 1.0), (1, 0.0)]


QUOTED = 'a;b\n"x;y";"say ""hi"""\n'


def test_cells_between_separators_of_one_character_may_be_quoted(tmp_path: Path) -> None:
    path = write(tmp_path, "x.csv", QUOTED)
    assert read_table(path, ["a", "b"], Layout(separator=";")).rows() == [("x;y", 'say "hi"')]
    path = write(tmp_path, "plain.csv", 'a;b\n"x;"y\n')
    assert read_table(path, ["a", "b"], Layout(separator=";", quoted=False)).rows() == [('"x', '"y')]
    path = write(tmp_path, "tab.tsv", 'a\tb\n"x\t"y\n')
    assert read_table(path, ["a", "b"], Layout(quoted=False)).rows() == [('"x', '"y')]
    path = write(tmp_path, "long.txt", 'a::b\n"x::y"\n')
    assert read_table(path, ["a", "b"], Layout(separator="::")).rows() == [('"x', 'y"')]


def test_errors_name_the_file_as_the_toml_does(tmp_path: Path) -> None:
    (tmp_path / "ml").mkdir()
    write(tmp_path, "ml/log.csv", "user_id,item_id\n1,\u00e9\n", "latin-1")
    advice = r'line 2: expected utf-8: .*; \[data\.layouts\."ml/log\.csv"\] may name another encoding$'
    with pytest.raises(DataError, match=advice):
        events(tmp_path, {"id": ITEM["id"]}, events="ml/log.csv")
    with pytest.raises(DataError, match=r"line 2: expected utf-8: [^;]*$"):
        read_table(tmp_path / "ml/log.csv", ["item_id"])  # such as judgements, which have no layout


def test_the_error_of_a_file_of_another_kind_says_which_layout_reads_it(tmp_path: Path) -> None:
    item = {"id": ITEM["id"]}
    write(tmp_path, "log.csv", "user_id;item_id\n1;7\n1;8\n")
    advice = r'if \';\' separates them, set separator = ";" in \[data\.layouts\."log\.csv"\]$'
    with pytest.raises(DataError, match=f"columns present: user_id;item_id; {advice}"):
        events(tmp_path, item, events="log.csv")
    found = events(tmp_path, item, events="log.csv", layouts={"log.csv": {"separator": ";"}})
    assert found.items["item_id"].to_list() == ["7", "8"]
    write(tmp_path, "log.csv", "user_id,item_id\n1,7\n1,é\n", "utf-16")
    found = events(tmp_path, item, events="log.csv", layouts={"log.csv": {"encoding": "utf-16"}})
    assert found.items["item_id"].to_list() == ["7", "é"]
    (tmp_path / "log.csv").write_bytes(b"user_id,item_id\n1,7\n")
    with pytest.raises(DataError, match=r"log\.csv: expected utf-16: "):
        events(tmp_path, item, events="log.csv", layouts={"log.csv": {"encoding": "utf-16"}})


def test_the_error_of_an_open_quote_names_the_line_where_it_opens(tmp_path: Path) -> None:
    write(tmp_path, "log.csv", 'user_id,item_id\n1,"7\n7"\n1,"8\n1,9\n1,10\n')
    expected = r"log\.csv: row 2 \(line 4\): a quoted cell begins in this row and does not end$"
    with pytest.raises(DataError, match=expected):
        events(tmp_path, {"id": ITEM["id"]}, events="log.csv")


@pytest.mark.parametrize(
    ("name", "layout", "expected"),
    [
        ("x.dat", None, r'a file that ends in \.dat has no header: .*layouts\."x\.dat"\] of the TOML names'),
        ("x.data", Layout(columns=("a", "b")), "must name the separator"),
        ("x.jsonl", Layout(columns=("a",)), r"ends in \.jsonl has no layout"),
        ("x.dat", Layout(columns=("b", "c")), "column 'a' is missing; columns present: b, c"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(
    tmp_path: Path, name: str, layout: Layout | None, expected: str
) -> None:
    with pytest.raises(DataError, match=expected):
        read_table(write(tmp_path, name, "1::2\n"), ["a"], layout, name)


def test_a_layout_of_a_file_that_is_not_read_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "log.csv", "user_id,item_id\n1,2\n")
    with pytest.raises(DataError, match=r"data\.layouts: no such file is read: 'log\.dat'; .*: log\.csv"):
        events(tmp_path, {"id": ITEM["id"]}, events="log.csv", layouts={"log.dat": {"columns": ["a"]}})


def test_a_layout_has_distinct_names() -> None:
    with pytest.raises(ValueError, match="columns: expected distinct names, got 'a'"):
        Layout(columns=("a", "b", "a"))
    with pytest.raises(ValueError, match="separator: expected characters within a line"):
        Layout(separator="\n")
    with pytest.raises(ValueError, match="separator: expected another character than the quote"):
        Layout(separator='"')
