"""What a data set holds: each line, of data that are counted by hand."""

from pathlib import Path

import polars as pl

from tests.helpers.stdlib import Sections, experiment_at, write_sections
from twinspire.train.data.contents import contents

TITLES = ["lamp", "lamp", "red lamp", "a chair of wood", "sofa"]
PAIRS = [("light", 0), ("light", 0), ("light", 3), ("seat", 3), ("sofa", 4), ("sofa", 3)]
SECTIONS: Sections = {
    "data": {"kind": "files", "items": "items.parquet", "pairs": "pairs.parquet", "time": "at"},
    "split": {"by": "time", "validation": 0.17, "test": 0.34},
    "query.text": {"kind": "text", "column": "query"},
    "query.tags": {"kind": "category", "column": "tags", "multi": True},
    "item.title": {"kind": "text", "column": "title"},
    "item.room": {"kind": "category", "column": "room"},
    "tower": {"kind": "bag"},
}


def lines_of(folder: Path) -> list[str]:
    """The lines of a log."""
    ids = [f"i{n}" for n in range(len(TITLES))]
    rooms = ["kitchen"] * 4 + [None]
    items = pl.DataFrame({"item_id": ids, "title": TITLES, "room": rooms})
    items.write_parquet(folder / "items.parquet")
    pl.DataFrame(
        {
            "query": [query for query, _ in PAIRS],
            "item_id": [ids[item] for _, item in PAIRS],
            "tags": [["a"]] * 5 + [[]],
            "at": [1_700_000_000.0 + n * 86_400 for n in range(len(PAIRS))],
        }
    ).write_parquet(folder / "pairs.parquet")
    experiment, dataset = experiment_at(write_sections(folder / "shop.toml", "shop", SECTIONS, {}))
    return contents(dataset, experiment)


def test_each_line_says_what_is_in_the_tables(tmp_path: Path) -> None:
    assert lines_of(tmp_path) == [
        "query.text: 3 distinct texts of 4 to 5 characters, median 4, 95 % up to 5",
        "item.title: 4 distinct texts of 4 to 15 characters, median 8, 95 % up to 15",
        "5 items: half of the pairs are of 1 (20.0%); at most 3 pairs, 1 items have one, 2 none",
        "4 queries: half of the pairs are of 1 (25.0%); at most 3 pairs, 3 queries have one, 0 none",
        "duplicates: 1 of 5 items have the texts of an earlier one, 1 of 6 pairs repeat an earlier one",
        "test: items of 50.0% of the pairs are new to training, queries of 100.0%",
        "missing: item room 20.0%, query tags 16.7%",
    ]


def test_events_are_counted_by_user(tmp_path: Path) -> None:
    rows = [f"u{n % 4},i{n % 3},{n},{int(n % 5 > 0)}" for n in range(40)]
    (tmp_path / "log.csv").write_text("\n".join(["user_id,item_id,at,liked", *rows]))
    data = {"kind": "events", "events": "log.csv", "time": "at", "repeats": "keep", "label": "liked"}
    sections = {
        "data": data,
        "split": {"by": "last"},
        "query.history": {"kind": "history"},
        "item.id": {"kind": "id"},
        "tower": {"kind": "sequence"},
    }
    experiment, dataset = experiment_at(write_sections(tmp_path / "log.toml", "log", sections, {}))
    lines = contents(dataset, experiment)
    assert lines[0].startswith("3 items: half of the pairs are of 2 (66.7%)")
    assert lines[1].startswith("4 users: half of the pairs are of 2 (50.0%)")
    assert lines[1].endswith("at most 8 pairs, 0 users have one, 0 none")
    assert lines[3] == "test: items of 0.0% of the pairs are new to training, users of 0.0%"
