"""The tables of the data sets, the pinned downloads, and the report."""

import csv
import hashlib
import io
import tarfile
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.held_out import changes, lectures, report, senses
from tests.held_out.__main__ import SETS
from tests.held_out.packages import Package, members
from twinspire.protos.errors import DataError
from twinspire.train.config import read_experiment

VERBS = """\
  1 This software and database is being provided to you
00001740 29 v 02 draw_breath 0 respire 0 000 | take in air; "They respire"; "she drew"
"""
ADJECTIVES = """\
00009978 00 s 0b galore(ip) 0 a 0 b 0 c 0 d 0 e 0 f 0 g 0 h 0 i 0 j 0 001 & 00009618 a 0000 | in great numbers
"""
LOG = """\
2001-02-03  Ann Bell  <ann@example.org>
\t    Carl Dent  <carl@example.org>

\t* config/a.c, config/a.h (first): New.
\t(second): Likewise.
\t* config/a.c (third): Move.

2001-02-02  Carl Dent  <carl@example.org>

\tPR target/1
\t* b.def: Add a value.

2001-02-02  Ann Bell  <ann@example.org>

{many}
2001-40-30  Ann Bell  <ann@example.org>

\t* no-such-day.c: Fix.

Mon Dec 29 14:30:23 1997  Carl Dent  (carl@example.org)

\t* old.c: Fix.

Copyright (C) 2001
"""
RATINGS = """\
"","s","d","studage","lectage","service","dept","y"
"1","1","1002","2","2","0","2",5
"2","1","1050","4","1","1","6",2
"""


def made(make: Any, texts: Iterable[tuple[str, str]], folder: Path) -> dict[str, list[list[str]]]:
    """The tables that a data set writes, by file."""
    make(texts, folder)
    return {path.name: [*csv.reader(path.read_text().splitlines())] for path in folder.iterdir()}


def test_examples_are_the_queries_of_synsets(tmp_path: Path) -> None:
    found = made(senses.make, [("./data.verb", VERBS), ("./data.adj", ADJECTIVES)], tmp_path)
    assert found["synsets.csv"] == [
        ["item_id", "text"],
        ["verb-00001740", "draw breath, respire: take in air"],
        ["adj-00009978", "galore, a, b, c, d, e, f, g, h, i, j: in great numbers"],
    ]
    assert found["examples.csv"] == [
        ["query", "item_id", "word"],
        ["They respire", "verb-00001740", "draw breath"],
        ["she drew", "verb-00001740", "draw breath"],
    ]


def test_files_of_an_entry_are_events_in_order_of_time(tmp_path: Path) -> None:
    many = "".join(f"\t* mass{n}.c: New year.\n" for n in range(changes.MOST + 1))
    found = made(changes.make, [("gcc/ChangeLog-2001", LOG.format(many=many))], tmp_path)
    assert found["changes.csv"] == [
        ["developer", "file", "date"],
        ["Carl Dent", "b.def", "2001-02-02"],
        ["Ann Bell", "config/a.c", "2001-02-03"],
        ["Ann Bell", "config/a.h", "2001-02-03"],
    ]
    assert found["files.csv"][1:] == [
        ["b.def", "b.def", ".", ".def"],
        ["config/a.c", "config/a.c", "config", ".c"],
        ["config/a.h", "config/a.h", "config", ".h"],
    ]


def test_ratings_have_the_semester_of_the_lecture(tmp_path: Path) -> None:
    assert made(lectures.make, [("InstEval.csv", RATINGS)], tmp_path)["ratings.csv"] == [
        ["student", "lecturer", "date", "year", "department", "service", "rating"],
        ["1", "1002", "2002-01-01", "2", "2", "0", "5"],
        ["1", "1050", "2002-07-01", "4", "6", "1", "2"],
    ]


def packed(files: Mapping[str, bytes], mode: str) -> bytes:
    """A tar archive of files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def test_members_of_nested_archives_are_read() -> None:
    inner = packed({"x/log-1": b"one", "x/other": b"two", "x/log-2": "\u00e9".encode()}, "w:xz")
    outer = packed({"readme": b"three", "y/inner.tar.xz": inner}, "w:gz")
    assert [*members(io.BytesIO(outer), "y/*.tar.xz", "x/log-*")] == [
        ("x/log-1", "one"),
        ("x/log-2", "\u00e9"),
    ]
    assert [*members(io.BytesIO(outer), "readme")] == [("readme", "three")]


def test_a_package_that_is_not_the_pinned_one_is_refused(tmp_path: Path) -> None:
    content = packed({"a": b"b"}, "w:gz")
    package = Package("a==1", "a-1.tar.gz", hashlib.sha256(content).hexdigest(), ("a",))
    (tmp_path / package.file).write_bytes(content)
    assert [*package.texts(tmp_path)] == [("a", "b")]
    (tmp_path / package.file).write_bytes(packed({"a": b"c"}, "w:gz"))
    with pytest.raises(DataError, match=r"a-1\.tar\.gz: expected the file with sha256"):
        next(package.texts(tmp_path))


@pytest.mark.parametrize("name", SETS)
def test_the_experiments_set_the_seed_alone(name: str, tmp_path: Path) -> None:
    """And their metrics are those of a report."""
    config = Path(report.__file__).with_name(f"{name}.toml").read_text()
    seeded = tmp_path / f"{name}.toml"
    seeded.write_text(report.with_seed(config, 7))
    before, after = (tomllib.loads(text) for text in (config, seeded.read_text()))
    assert after.pop("training") == {**before.pop("training", {}), "seed": 7}
    assert after == before
    assert read_experiment(seeded).training.seed == 7


def test_a_table_has_each_ranking_of_each_seed() -> None:
    quality = {
        "drawn": "86 groups",
        **{"ndcg_at_10": 0.5, "ndcg_at_10_low": 0.4, "ndcg_at_10_high": 0.6},
        "bm25_ndcg_at_10": 0.25,
        **{"bm25_difference_ndcg_at_10": 0.25, "bm25_difference_ndcg_at_10_low": -0.125},
        "bm25_difference_ndcg_at_10_high": 0.375,
        "base_rate_auc": 0.5,
        "base_rate_auc_gain": 0.125,
    }
    lines = [*report.table("senses", {0: quality, 1: quality}, ("ndcg_at_10", "auc"))]
    assert lines[0].startswith("senses: 95 % intervals, 86 groups drawn")
    assert lines[4::2] == [
        "| served | 0 | 0.5000 (0.4000 to 0.6000) |  |",
        "| BM25 | 0 | 0.2500; +0.2500 (-0.1250 to +0.3750) |  |",
        "| base rate | 0 |  | 0.5000; +0.1250 |",
    ]
