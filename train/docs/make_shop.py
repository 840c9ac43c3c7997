"""Makes the shop of the tutorial: `python train/docs/make_shop.py shop` writes two tables into a folder.

`items.csv` has item_id, title, brand and price; `clicks.csv` has query, item_id and time, the oldest first.
The same seed gives the same tables. A query names a kind of product, in a quarter of the cases by a word that
no title holds, and often a brand or a style. What is clicked depends on these words, on how popular an item
is, and on chance.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

SYNONYMS = {  # product, as titles have it -> another word for it, which only queries have
    "boots": "footwear", "jacket": "coat", "trousers": "pants", "jumper": "sweater", "cap": "hat",
    "rucksack": "backpack", "suitcase": "luggage", "purse": "wallet", "sofa": "couch", "armchair": "seat",
    "desk": "workplace", "lamp": "light", "rug": "carpet", "curtain": "drapes", "duvet": "bedding",
    "kettle": "boiler", "saucepan": "pot", "mug": "cup", "blender": "mixer", "hob": "stove",
    "bicycle": "bike", "tent": "camping", "dumbbell": "weights", "racket": "tennis", "skis": "snow",
    "headphones": "earbuds", "laptop": "notebook", "phone": "mobile", "monitor": "screen", "camera": "photo",
    "novel": "book", "puzzle": "jigsaw", "guitar": "strings", "keyboard": "piano", "easel": "painting",
    "spade": "shovel", "hose": "watering", "drill": "tool", "ladder": "steps", "paint": "varnish",
}  # fmt: skip
BRANDS = ["Alder", "Brisk", "Corvo", "Delta", "Ember", "Fjord", "Grove", "Halden", "Indigo", "Juno"]
STYLES = ["red", "blue", "green", "black", "light", "sturdy", "folding", "vintage", "small", "large"]
BEGIN = datetime(2026, 9, 1)
MATCH = 15  # an item with the brand or the style of the query is clicked this many times as often


def make_shop(folder: Path, items: int = 2_000, clicks: int = 6_000, seed: int = 0) -> None:
    """Write `items.csv` and `clicks.csv` into the folder, which is made if it is missing.

    Args:
        items: number of items, at least one for each of the 40 products.
        clicks: number of clicks, spread over about 90 days.

    Raises:
        ValueError: there are fewer items than products.
    """
    if items < len(SYNONYMS):
        raise ValueError(f"items: expected at least {len(SYNONYMS)}, got {items}")
    draw = np.random.default_rng(seed)
    products = list(SYNONYMS)
    product = np.arange(items) % len(products)
    brand, style = draw.integers(0, len(BRANDS), items), draw.integers(0, len(STYLES), items)
    price = np.round(np.exp(draw.normal(3.5, 0.8, items)), 2)
    popularity = np.exp(draw.normal(0, 1.2, items))
    demand = 1 / (3 + np.arange(len(products)))
    rows = []
    for n in range(clicks):
        wanted = draw.choice(len(products), p=demand / demand.sum())
        candidates = np.flatnonzero(product == wanted)
        words = [products[wanted] if draw.random() < 0.75 else SYNONYMS[products[wanted]]]
        weight = popularity[candidates]
        for names, of_items, share in ((STYLES, style, 0.4), (BRANDS, brand, 0.3)):
            if draw.random() < share:
                value = of_items[draw.choice(candidates)]
                words.insert(0, names[value].lower())
                weight = weight * np.where(of_items[candidates] == value, MATCH, 1)
        item = draw.choice(candidates, p=weight / weight.sum())
        time = BEGIN + timedelta(days=90 * n / clicks)
        rows.append((" ".join(words), f"p{item}", time.isoformat(timespec="seconds")))
    titles = [f"{BRANDS[brand[n]]} {STYLES[style[n]]} {products[product[n]]}" for n in range(items)]
    folder.mkdir(parents=True, exist_ok=True)
    described = [(f"p{n}", titles[n], BRANDS[brand[n]], price[n]) for n in range(items)]
    _write(folder / "items.csv", ("item_id", "title", "brand", "price"), described)
    _write(folder / "clicks.csv", ("query", "item_id", "time"), rows)


def _write(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def main() -> None:
    """Make the shop in the folder that the command line names."""
    parser = argparse.ArgumentParser(description="Make a shop's items and the clicks on its search results.")
    parser.add_argument("folder", type=Path, help="where items.csv and clicks.csv are written")
    parser.add_argument("--items", type=int, default=2_000, help="number of items (%(default)s)")
    parser.add_argument("--clicks", type=int, default=6_000, help="number of clicks (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (%(default)s)")
    arguments = parser.parse_args()
    make_shop(arguments.folder, arguments.items, arguments.clicks, arguments.seed)
    sys.stdout.write(f"{arguments.folder / 'items.csv'}\n{arguments.folder / 'clicks.csv'}\n")


if __name__ == "__main__":
    main()
