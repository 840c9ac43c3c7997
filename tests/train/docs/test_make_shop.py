"""The made shop of the tutorial."""

from pathlib import Path

import polars as pl

from twinspire.train.docs.make_shop import SYNONYMS, make_shop


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
