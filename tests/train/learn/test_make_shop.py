"""The made shop of the tutorial."""

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from twinspire.train.learn.make_shop import SYNONYMS, make_shop
from twinspire.train.paths import ROOT


def test_the_same_seed_makes_the_same_tables(tmp_path: Path) -> None:
    script = ROOT / "train" / "learn" / "make_shop.py"
    command = [
        sys.executable,
        str(script),
        str(tmp_path / "a"),
        "--items",
        "80",
        "--clicks",
        "300",
        "--seed",
        "3",
    ]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == [str(tmp_path / "a" / "items.csv"), str(tmp_path / "a" / "clicks.csv")]
    make_shop(tmp_path / "b", 80, 300, seed=3)
    make_shop(tmp_path / "c", 80, 300, seed=4)
    for name in ("items.csv", "clicks.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert (tmp_path / "a" / name).read_bytes() != (tmp_path / "c" / name).read_bytes()


def test_clicks_fit_their_queries(tmp_path: Path) -> None:
    make_shop(tmp_path, 400, 2_000)
    items, clicks = pl.read_csv(tmp_path / "items.csv"), pl.read_csv(tmp_path / "clicks.csv")
    assert (items.height, clicks.height) == (400, 2_000)
    assert clicks["time"].is_sorted()
    both = clicks.join(items, on="item_id", how="left")
    assert both["title"].null_count() == 0
    products = {synonym: product for product, synonym in SYNONYMS.items()}
    asked = [query.split()[-1] for query in both["query"]]
    assert [products.get(word, word) for word in asked] == [title.split()[-1] for title in both["title"]]
    by_synonym = sum(word in products for word in asked) / len(asked)
    assert 0.2 < by_synonym < 0.3


def test_fewer_items_than_products_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="items: expected at least 40, got 39"):
        make_shop(tmp_path, items=39)
