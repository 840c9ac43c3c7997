"""An invalid value is an error that names its place; dropped pairs are counted."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from tests.helpers.sources import source_context
from twinspire.protos.errors import DataError
from twinspire.protos.features import CategoryFeature, FeatureSpec, IdFeature, NumberFeature, TextFeature
from twinspire.train.data.source import Tables
from twinspire.train.data.sources.files import FilesData

QUERY: dict[str, FeatureSpec] = {"text": TextFeature(kind="text", column="query")}
ITEM: dict[str, FeatureSpec] = {"text": TextFeature(kind="text", column="title")}
ITEMS_CSV = 'item_id,title,price\n007,"Walther, PPK",12.5\n7,Seven,\n'
PAIRS_CSV = "query,item_id\nspy gun,007\nlucky number,7\n"


def read(
    folder: Path,
    items: str | bytes = ITEMS_CSV,
    pairs: str | bytes = PAIRS_CSV,
    names: tuple[str, str] = ("items.csv", "pairs.csv"),
    query: dict[str, FeatureSpec] = QUERY,
    item: dict[str, FeatureSpec] = ITEM,
    **data: Any,
) -> Tables:
    for name, content in zip(names, (items, pairs), strict=True):
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    section = FilesData(kind="files", items=names[0], pairs=names[1], **data)
    return section.open(source_context(folder, query, item)).read()


def test_ids_are_unchanged_strings(tmp_path: Path) -> None:
    tables = read(tmp_path, display=("price",))
    assert tables.items.rows() == [("007", "Walther, PPK", "12.5"), ("7", "Seven", "")]
    assert tables.items.columns == ["item_id", "title", "price"]
    assert tables.pairs.collect().rows() == [("spy gun", 0, 1.0, "007"), ("lucky number", 1, 1.0, "7")]
    assert tables.pairs.schema["item_row"] == pl.UInt32
    assert tables.pairs.schema["weight"] == pl.Float32
    assert tables.dropped == {}


@pytest.mark.parametrize(
    ("pairs", "key", "said"),
    [
        ("a,7,1\nb,7,2\n", "", "neither data.group nor data.time is set"),
        ("a,7,1\na,7,1\n", "group", "50% of the pairs repeat an earlier one and are dropped"),
        ("a,7,1\nb,7,1\n", "group", ""),
        ("a,7,1\na,7,2\n", "time", ""),
    ],
)
def test_a_warning_says_what_is_lost_without_a_key(tmp_path: Path, pairs: str, key: str, said: str) -> None:
    (tmp_path / "items.csv").write_text(ITEMS_CSV)
    (tmp_path / "pairs.csv").write_text("query,item_id,extra\n" + pairs)
    data: dict[str, Any] = {key: "extra"} if key else {}
    console = Console(file=io.StringIO(), width=50)
    context = replace(source_context(tmp_path, QUERY, ITEM), console=console)
    FilesData(kind="files", items="items.csv", pairs="pairs.csv", **data).open(context).read()
    warnings = console.file.getvalue()  # type: ignore[attr-defined]
    assert warnings.startswith(f"warning: pairs.csv: {said}") if said else not warnings


def test_all_formats_give_the_same_tables(tmp_path: Path) -> None:
    expected = read(tmp_path)
    tsv = read(
        tmp_path,
        ITEMS_CSV.replace('"Walther, PPK"', "Walther; PPK").replace(",", "\t").replace(";", ","),
        PAIRS_CSV.replace(",", "\t"),
        ("items.tsv", "pairs.TSV"),
    )
    jsonl = read(
        tmp_path,
        '{"item_id": "007", "title": "Walther, PPK"}\n{"title": "Seven", "item_id": "7"}\n',
        '{"query": "spy gun", "item_id": "007"}\n{"query": "lucky number", "item_id": "7"}',
        ("items.jsonl", "pairs.jsonl"),
    )
    for name in ("items", "pairs"):
        frame = pl.read_csv(tmp_path / f"{name}.csv", infer_schema=False)
        frame.write_parquet(tmp_path / f"{name}.parquet")
    items, pairs = ((tmp_path / f"{name}.parquet").read_bytes() for name in ("items", "pairs"))
    parquet = read(tmp_path, items, pairs, ("items.parquet", "pairs.parquet"))
    for tables in (tsv, jsonl, parquet):
        assert tables.items.equals(expected.items)
        assert tables.pairs.collect().equals(expected.pairs.collect())


def test_csv_is_quoted_as_in_rfc_4180(tmp_path: Path) -> None:
    items = '\ufeffitem_id,title\r\na,"say ""yes"""\r\nb,"two\nlines"\r\nc,5" pipe\r\n\r\n'
    tables = read(tmp_path, items, "query,item_id\nq,a\n")
    assert tables.items["title"].to_list() == ['say "yes"', "two\nlines", '5" pipe']


def test_repeats_without_a_label_are_merged_and_counted(tmp_path: Path) -> None:
    tables = read(tmp_path, pairs="query,item_id\na,7\na,7\na,007\n")
    assert tables.pairs.collect().select("query", "item_row").rows() == [("a", 1), ("a", 0)]
    assert tables.dropped == {"pair merged with an equal one": 1}
    data = FilesData("files", "items.csv", "pairs.csv", pair_item_id="item", label="liked")
    assert data.target_columns("query") == {"item": "data.pair_item_id", "liked": "data.label"}


def test_each_labelled_row_is_an_impression(tmp_path: Path) -> None:
    pairs = "query,item_id,clicked\na,7,1\nb,7,0\nc,7,-1\na,7,1\na,7,2\na,007,1\n"
    tables = read(tmp_path, pairs=pairs, label="clicked")
    assert tables.pairs.collect()["query"].to_list() == ["a", "b", "c", "a", "a", "a"]
    assert tables.pairs.collect()["label"].to_list() == [1, 0, 0, 1, 1, 1]
    assert tables.dropped == {}
    tables = read(tmp_path, pairs=pairs, label="clicked", positive_from=2.0)
    assert tables.pairs.collect()["label"].to_list() == [0, 0, 0, 0, 1, 0]


def test_features_have_the_type_of_their_kind(tmp_path: Path) -> None:
    item: dict[str, FeatureSpec] = {
        **ITEM,
        "colour": CategoryFeature(kind="category", column="colour"),
        "tags": CategoryFeature(kind="category", column="tags", multi=True),
        "price": NumberFeature(kind="number", column="price"),
    }
    items = "item_id,title,colour,tags,price\na,A,red,new|old||,1.5\nb,B,,,\nc,C,01,x,nan\n"
    tables = read(tmp_path, items, "query,item_id\nq,a\n", item=item)
    assert tables.items.drop("title").rows() == [
        ("a", "red", ["new", "old"], 1.5),
        ("b", None, [], None),
        ("c", "01", ["x"], None),
    ]
    items = '{"item_id":"a","title":"A","colour":3,"tags":["x"],"price":1}\n'
    items += '{"item_id":"b","title":"B","colour":4,"tags":null,"price":2.5}\n'
    pairs = "query,item_id\nq,a\n"
    tables = read(tmp_path, items, pairs, ("items.jsonl", "pairs.csv"), item=item)
    assert tables.items.drop("title").rows() == [("a", "3", ["x"], 1.0), ("b", "4", [], 2.5)]


def test_weight_group_and_time_are_read(tmp_path: Path) -> None:
    pairs = "query,item_id,w,session,at\na,7,0.5,s1,1970-01-02\nb,7,2,s2,1970-01-01T01:00:00+01:00\n"
    tables = read(tmp_path, pairs=pairs, weight="w", group="session", time="at")
    assert tables.pairs.collect().rows() == [("a", 1, 0.5, "s1", 86400.0), ("b", 1, 2.0, "s2", 0.0)]
    numbers = "query,item_id,at\na,7,3\nb,7,1.5\n"
    assert read(tmp_path, pairs=numbers, time="at").pairs.collect()["time"].to_list() == [3.0, 1.5]


def test_the_pairs_table_may_have_another_name_for_the_id(tmp_path: Path) -> None:
    items, pairs = "sku,title\na,A\n", "query,product\nq,a\n"
    tables = read(tmp_path, items, pairs, item_id="sku", pair_item_id="product")
    assert tables.items.columns == ["item_id", "title"]
    assert tables.pairs.collect()["group"].to_list() == ["a"]


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "missing column": (
        {"pairs": "question,item_id\nq,7\n"},
        r"pairs\.csv: column 'query' is missing; columns present: question, item_id",
    ),
    "unknown item": (
        {"pairs": "query,item_id\na,7\nb,8\n"},
        r"pairs\.csv: row 2, column 'item_id': expected the id of an item in .*, got '8'",
    ),
    "duplicate id": (
        {"items": "item_id,title\na,A\nb,B\na,C\n"},
        r"items\.csv: row 3, column 'item_id': .*once \(row 1 has it, too\), got 'a'",
    ),
    "null query": (
        {"pairs": "query,item_id\na,7\n,7\n"},
        r"pairs\.csv: row 2, column 'query': expected text, got null",
    ),
    "empty file": ({"items": ""}, r"items\.csv: line 1: expected a header"),
    "long row": (
        {"pairs": 'query,item_id\n"a\nb",7\nb,7,8\n'},
        r"pairs\.csv: row 2 \(ends on line 4\): expected 2 fields as in the header, got 3",
    ),
    "bad UTF-8": (
        {"pairs": b"query,item_id\nna\xefve,7\n"},
        r"pairs\.csv: line 2: expected utf-8",
    ),
    "no label": (
        {"pairs": "query,item_id,l\na,7,yes\n", "label": "l"},
        r"pairs\.csv: row 1, column 'l': expected a number, got 'yes'",
    ),
    "nothing positive": (
        {"pairs": "query,item_id,l\na,7,0\n", "label": "l"},
        r"pairs\.csv: column 'l': expected a pair with a positive label \(above 0\), got none in 1 pairs",
    ),
    "unknown ending": (
        {"names": ("items.xlsx", "pairs.csv")},
        r"items\.xlsx: expected a file that ends in \.csv, \.tsv, \.dat, \.jsonl, "
        r"\.parquet, got '\.xlsx'",
    ),
    "reserved column": (
        {
            "query": {"t": TextFeature(kind="text", column="weight")},
            "pairs": "weight,item_id\na,7\n",
        },
        r"pairs\.csv: a query feature cannot read 'weight': rename it",
    ),
    "other item_id": (
        {"items": "sku,item_id,title\n7,x,A\n", "item_id": "sku", "display": ("item_id",)},
        r"items\.csv: column 'item_id' is .* but the ids are in 'sku'",
    ),
    "malformed JSON": (
        {"names": ("items.csv", "pairs.jsonl"), "pairs": '{"query": "a", "item_id": "7"}\n{"query'},
        r"pairs\.jsonl: row 2: not valid JSON",
    ),
    "mixed JSON": (
        {
            "names": ("items.csv", "pairs.jsonl"),
            "pairs": '{"query": "a", "item_id": "7"}\n{"query": "a", "item_id": 7}\n',
        },
        r"pairs\.jsonl: row 2, column 'item_id': expected a string as in the rows before, got 7",
    ),
    "half a surrogate pair": (
        {
            "names": ("items.csv", "pairs.jsonl"),
            "pairs": '{"query": "ab\\ud83d", "item_id": "7"}\n',
        },
        r"pairs\.jsonl: row 1, column 'query': expected Unicode",
    ),
    "JSON without a key": (
        {"names": ("items.csv", "pairs.jsonl"), "pairs": '{"item_id": "7"}\n'},
        r"pairs\.jsonl: column 'query' is missing; columns present: item_id",
    ),
    "null in a list": (
        {
            "names": ("items.jsonl", "pairs.csv"),
            "items": '{"item_id": "7", "tags": ["x", null]}\n',
            "item": {"t": CategoryFeature(kind="category", column="tags", multi=True)},
        },
        r"items\.jsonl: row 1, column 'tags': expected a list of strings, got \['x', None\]",
    ),
    "not Parquet": (
        {"names": ("items.parquet", "pairs.csv")},
        r"items\.parquet: not a readable Parquet file",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_error_names_its_place(tmp_path: Path, fault: str) -> None:
    arguments, message = FAULTS[fault]
    with pytest.raises(DataError, match=message):
        read(tmp_path, **arguments)


def test_pairs_of_unknown_items_are_refused_or_left_out_and_counted(tmp_path: Path) -> None:
    pairs = PAIRS_CSV + "withdrawn,8\n"
    with pytest.raises(DataError, match="row 3, column 'item_id'"):
        read(tmp_path, pairs=pairs)
    tables = read(tmp_path, pairs=pairs, unknown_items="drop")
    assert tables.pairs.collect()["query"].to_list() == ["spy gun", "lucky number"]
    assert tables.dropped == {"pair of an unknown item": 1}
    with pytest.raises(DataError, match="row 3, column 'item_id': expected an item id"):
        read(tmp_path, pairs=PAIRS_CSV + "nothing,\n", unknown_items="drop")


def test_rows_that_lack_a_text_are_counted_with_the_ways_out(tmp_path: Path) -> None:
    blank = [3, 5, 9, 10, 40, 90]
    rows = [f"i{n},{'' if n in blank else 'a title'},{n}\n" for n in range(1, 100)]
    items, pairs = "item_id,title,price\n" + "".join(rows), "query,item_id\na,i1\nb,i3\n"
    with pytest.raises(DataError, match=r"column 'title': .* in 6 rows: 3, 5, 9, 10, 40 and 1 more; leave"):
        read(tmp_path, items=items, pairs=pairs)
    tables = read(tmp_path, items=items, pairs=pairs, item={**ITEM, "id": IdFeature(kind="id")})
    assert tables.items["title"].to_list().count("") == len(blank)


def test_blank_rows_are_refused_or_left_out_and_counted(tmp_path: Path) -> None:
    pairs = 'query,item_id,at\n,,\nspy gun,007,1\n" ",7,2\nlucky number,,3\nlucky number,7,\nlucky,7,4\n'
    advice = (
        r'expected text, got null, in 2 rows: 1, 3; blank_rows = "drop" in \[data\] leaves such pairs out'
    )
    with pytest.raises(DataError, match=f"row 1, column 'query': {advice}"):
        read(tmp_path, pairs=pairs, time="at")
    tables = read(tmp_path, pairs=pairs, time="at", blank_rows="drop")
    assert tables.pairs.collect()["query"].to_list() == ["spy gun", "lucky"]
    assert tables.dropped == {"blank row": 4}
    with pytest.raises(DataError, match="row 3, column 'item_id': expected the id of an item"):
        read(tmp_path, pairs="query,item_id\n,\na,7\nb,8\n", blank_rows="drop")  # rows as in the file
