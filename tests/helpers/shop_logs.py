"""A made log of clicks on the results of a shop's search, as CSV files; the same seed gives the same log."""

from pathlib import Path

import numpy as np

BRANDS, STYLES, ITEMS_OF_A_NOUN = 40, 30, 10


def write_shop(folder: Path, items: int = 5_000, clicks: int = 30_000, seed: int = 0) -> Path:
    """`items.csv` (item_id, title), `clicks.csv` (query, item_id, at), and `shop.toml`; returns its path.

    A title is a brand, a style and a noun. A query is a noun, or in a fifth of the cases a synonym, which no
    title holds, with a brand or a style in three of five. A click takes one of the noun's items: by its
    popularity, times 20 where it has the brand or the style. Nouns and popularity have long tails.
    """
    draw = np.random.default_rng(seed)
    nouns = items // ITEMS_OF_A_NOUN
    noun = np.arange(items) % nouns
    brand, style = draw.integers(0, BRANDS, items), draw.integers(0, STYLES, items)
    popularity = np.exp(draw.normal(0, 1.5, items))
    share = 1 / (1 + np.arange(nouns))
    asked = draw.choice(nouns, clicks, p=share / share.sum())
    lines = []
    for n, wanted in enumerate(asked):
        rows = np.flatnonzero(noun == wanted)
        words, weight = [f"{'noun' if draw.random() < 0.8 else 'synonym'}{wanted}"], popularity[rows].copy()
        which = draw.choice(5)
        if which < 3:
            name, values = ("brand", brand) if which else ("style", style)
            value = values[draw.choice(rows)]
            words.insert(0, f"{name}{value}")
            weight[values[rows] == value] *= 20
        item = draw.choice(rows, p=weight / weight.sum())
        text = " ".join(words)
        lines.append(f"{text.title() if n % 3 == 0 else text},i{item},{1_700_000_000 + n * 60}")
    (folder / "clicks.csv").write_text("query,item_id,at\n" + "\n".join(lines) + "\n")
    titles = (f"i{n},brand{brand[n]} style{style[n]} noun{noun[n]}" for n in range(items))
    (folder / "items.csv").write_text("item_id,title\n" + "\n".join(titles) + "\n")
    (folder / "shop.toml").write_text(TOML)
    return folder / "shop.toml"


TOML = """
name = "shop-made"

[data]
kind = "files"
items = "items.csv"
pairs = "clicks.csv"
time = "at"

[split]
by = "time"

[query.text]
kind = "text"
column = "query"

[item.title]
kind = "text"
column = "title"

[tower]
kind = "bag"
"""
