"""Delimited text of other kinds: RecBole's atomic files, MovieLens's `::`, files without a header."""

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.sources import source_context
from twinspire.protos.errors import DataError
from twinspire.protos.features import CategoryFeature, HistoryFeature, IdFeature, TextFeature
from twinspire.protos.toml_config import parse
from twinspire.train.data.columns import read_columns
from twinspire.train.data.layouts import Layout
from twinspire.train.data.source import Tables
from twinspire.train.data.sources.events import EventsData, EventsSource
from twinspire.train.data.sources.files import FilesData, FilesSource
from twinspire.train.data.table_files import read_slices, read_table

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t07\t4\t9.0\n1\t8\t\t881250949\n"
FILMS = 'item_id:token\ttitle:token_seq\tclass:token_seq\n07\t"Great" Day\tDrama War\n8\tToy Story\t\n'
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
    return EventsSource(
        section, source_context(folder, {"history": HistoryFeature("history")}, item, "")
    ).read()


def test_an_atomic_file_has_names_without_types_and_values_with_them(tmp_path: Path) -> None:
    frame = read_table(write(tmp_path, "ml.inter", INTER), ["item_id", "rating", "timestamp"])
    assert frame.rows() == [("07", 4.0, 9.0), ("8", None, 881250949.0)]
    items = read_columns(write(tmp_path, "ml.item", FILMS), ["title", "class"])
    assert items.strings("title").to_list() == ['"Great" Day', "Toy Story"]
    assert items.categories("class").to_list() == [["Drama", "War"], []]


def test_events_are_read_from_atomic_files(tmp_path: Path) -> None:
    write(tmp_path, "ml.inter", INTER)
    write(tmp_path, "ml.item", FILMS)
    tables = events(tmp_path, events="ml.inter", items="ml.item", time="timestamp", display=["title"])
    assert tables.items.select("item_id", "title").rows() == [("07", '"Great" Day'), ("8", "Toy Story")]
    assert tables.pairs.select("group", "item_row", "time").rows() == [("1", 0, 9.0), ("1", 1, 881250949.0)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a\tb:token\n1\t2\n", r"x\.inter: line 1: expected name:type with a type of token, .*, got 'a'"),
        ("a:int\n1\n", "line 1: expected name:type .*, got 'a:int'"),
        ("a:float\n1\n1,5\n", r"x\.inter: row 2, column 'a': expected a number, got '1,5'"),
        ("a:float_seq\n1 2\n", r"x\.inter: column 'a': no feature reads a list of numbers"),
    ],
)
def test_what_is_no_atomic_file_is_refused(tmp_path: Path, content: str, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        read_table(write(tmp_path, "x.inter", content), ["a"])


def test_rows_of_a_later_slice_have_their_number(tmp_path: Path) -> None:
    path = write(tmp_path, "x.inter", "a:float\n1\n2\n3\nx\n")
    with pytest.raises(DataError, match="row 4, column 'a': expected a number, got 'x'"):
        list(read_slices(path, ["a"], 2))


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
    assert tables.pairs.select("item_row", "label").rows() == [(0, 1.0), (1, 0.0)]


def test_a_separator_of_the_toml_reads_pairs_without_a_header(tmp_path: Path) -> None:
    write(tmp_path, "u.item", "7|Toy Story\n8|Up\n")
    write(tmp_path, "u.data", "film with toys\t7\nballoons\t8\n")
    section: Any = {
        "kind": "files",
        "items": "u.item",
        "pairs": "u.data",
        "layouts": {
            "u.item": {"columns": ["item_id", "title"], "separator": "|"},
            "u.data": {"columns": ["query", "item_id"], "separator": "\t"},
        },
    }
    query, item = ({"text": TextFeature("text", column)} for column in ("query", "title"))
    tables = FilesSource(parse(section, FilesData), source_context(tmp_path, query, item, "")).read()
    assert tables.pairs.select("query", "item_row").rows() == [("film with toys", 0), ("balloons", 1)]


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


def test_an_atomic_file_with_a_separator_of_its_own_keeps_its_types(tmp_path: Path) -> None:
    path = write(tmp_path, "x.item", 'a:float,b:token\n1,"y\n')
    assert read_table(path, ["a", "b"], Layout(separator=",")).rows() == [(1.0, '"y')]
    path = write(tmp_path, "y.item", 'a:float,b:token\n1,"x,y"\n')
    assert read_table(path, ["a", "b"], Layout(separator=",", quoted=True)).rows() == [(1.0, "x,y")]


def test_errors_name_the_file_as_the_toml_does(tmp_path: Path) -> None:
    (tmp_path / "ml").mkdir()
    write(tmp_path, "ml/ratings.dat", "1::7\n")
    with pytest.raises(DataError, match=r'\[data\.layouts\."ml/ratings\.dat"\] of the TOML names'):
        events(tmp_path, {"id": ITEM["id"]}, events="ml/ratings.dat")
    layouts = {"ml/ratings.dat": {"columns": ["user_id", "item_id"]}}
    found = events(tmp_path, {"id": ITEM["id"]}, events="ml/ratings.dat", layouts=layouts, min_user_events=1)
    assert found.items["item_id"].to_list() == ["7"]
    write(tmp_path, "ml/log.csv", "user_id,item_id\n1,\u00e9\n", "latin-1")
    advice = r'got byte 0xe9; or set encoding = "latin-1" in \[data\.layouts\."ml/log\.csv"\]$'
    with pytest.raises(DataError, match=advice):
        events(tmp_path, {"id": ITEM["id"]}, events="ml/log.csv")
    write(tmp_path, "log.jsonl", '{"user_id": "\u00e9", "item_id": "1"}\n', "latin-1")
    with pytest.raises(DataError, match=r"got byte 0xe9$"):
        events(tmp_path, {"id": ITEM["id"]}, events="log.jsonl")
    with pytest.raises(DataError, match=r"got byte 0xe9$"):
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
    advice = r'begins as UTF-16: set encoding = "utf-16" in \[data\.layouts\."log\.csv"\]$'
    with pytest.raises(DataError, match=advice):
        events(tmp_path, item, events="log.csv")
    found = events(tmp_path, item, events="log.csv", layouts={"log.csv": {"encoding": "utf-16"}})
    assert found.items["item_id"].to_list() == ["7", "é"]
    for content in (
        (tmp_path / "log.csv").read_bytes()[:-1],
        b"user_id,item_id\n1,7\n",
    ):  # cut off; UTF-8
        (tmp_path / "log.csv").write_bytes(content)
        with pytest.raises(DataError, match=r"log\.csv: is not UTF-16 or is cut off; \[data\.layouts"):
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
        (
            "x.dat",
            Layout(columns=("a",), quoted=True),
            "quoted in .* goes with a separator of one .*, not with '::'",
        ),
        ("x.data", Layout(columns=("a", "b")), "must name the separator"),
        ("x.jsonl", Layout(columns=("a",)), r"ends in \.jsonl has no layout"),
        (
            "x.dat",
            Layout(columns=("a",)),
            r"row 1 \(ends on line 1\): expected 1 fields .*, got 2",
        ),
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
    with pytest.raises(ValueError, match="quoted: goes with a separator of one character, not with '::'"):
        Layout(separator="::", quoted=True)
