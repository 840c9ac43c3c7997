"""A small world of people who watch films, and experiments on the log of it.

A film belongs to a genre, and within each genre the films follow one another like the parts of a series.
People watch in evenings, mostly on from where they left off, mostly in the two genres that they like, and
rate what they like higher. Before some films they type what they are looking for.
"""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.helpers.stdlib import Sections, write_sections

GENRES = ("Animation", "Comedy", "Crime", "Documentary", "Drama", "Western")
SERIES = 20  # films of a genre
PEOPLE = 300
COUNTRIES = ("de", "fr", "jp", "")
NOUNS = "river harbour mountain winter garden station letter night island window".split()
COLUMNS = ("person", "film", "title", "genre", "country", "evening", "at", "stars", "asked")

DATA: Mapping[str, Any] = {
    "kind": "events",
    "events": "log.csv",
    "user": "person",
    "item": "film",
    "time": "at",
    "session": "evening",
    "display": ["title", "genre"],
    "repeats": "first",
}
ATTENTION: Sections = {
    "data": DATA,
    "data.item_columns": {"title": "most_common", "genre": "most_common"},
    "split": {"by": "last"},
    "query.history": {"kind": "history", "max_length": 20},
    "query.country": {"kind": "category", "column": "country"},
    "item.id": {"kind": "id"},
    "item.title": {"kind": "text", "column": "title", "max_length": 32},
    "item.genre": {"kind": "category", "column": "genre"},
    "tower": {
        "kind": "sequence",
        "dimension": 32,
        "layers": 1,
        "input_dropout": 0.2,
        "dropout": 0.1,
        "buckets": 512,
    },
    "loss": {"kind": "full_softmax"},
    "training": {
        "epochs": 12,
        "batch_size": 256,
        "learning_rate": 3e-3,
        "threads": 1,
        "selection": "ndcg_at_10",
    },
    "export": {"iterations": 5},
    "index": {"threads": 1, "m": 16, "ef_construction": 200, "search": "graph"},
}
PLAIN_TOWER: dict[str, Any] = {"kind": "sequence", "dimension": 32, "buckets": 512}
SUM: Sections = {**ATTENTION, "tower": {**PLAIN_TOWER, "history": "sum", "decay": 0.1}}
LATENT: Sections = {**ATTENTION, "tower": {**PLAIN_TOWER, "history": "sum", "latent": 16}}
COMIREC: Sections = {
    **{name: each for name, each in ATTENTION.items() if name != "query.country"},
    "tower": {"kind": "comirec", "interests": 3, "dimension": 32, "hidden": 64, "buckets": 512},
}
RATINGS: Sections = {
    **ATTENTION,
    "precision": {"query": "fp32", "item": "fp32"},  # the formula is that of torch's own tables
    "data": {**DATA, "label": "stars", "positive_from": 4},
    "tower": {"kind": "clicks", "dimension": 16, "buckets": 512},
    "loss": {"kind": "bce"},
    "training": {**ATTENTION["training"], "learning_rate": 1e-3, "patience": 12, "selection": "auc"},
}
ASKED: Sections = {
    **ATTENTION,
    "query.text": {"kind": "text", "column": "asked", "max_length": 32},
    "tower": {"kind": "bag", "dimension": 32, "latent": 8, "buckets": 1024, "item_hidden": 0},
    "loss": {"kind": "in_batch_softmax"},
}
AGES: Sections = {
    **ATTENTION,
    "query.history": {**ATTENTION["query.history"], "times": True},
    "query.time": {"kind": "time"},
    "tower": {**ATTENTION["tower"], "ages": True},
}
COLD: Sections = {  # what is known of items without events is in a table of items
    **{name: each for name, each in ATTENTION.items() if name != "data.item_columns"},
    "data": {**DATA, "items": "films.csv"},
    "split": {"by": "last", "cold_items": 0.1},
}


def write_log(folder: Path) -> Path:
    """Write `log.csv`, and `films.csv` with all films of it, into a folder."""
    random = np.random.default_rng(0)
    names = [random.permutation(len(NOUNS) ** 2)[:SERIES] for _ in GENRES]
    quality = random.normal(size=(len(GENRES), SERIES))
    titles = [[f"{NOUNS[n // 10]} of the {NOUNS[n % 10]}" for n in each] for each in names]
    with (folder / "log.csv").open("w", newline="") as file:
        log = csv.writer(file)
        log.writerow(COLUMNS)
        rows = [row for person in range(PEOPLE) for row in _watched_by(person, titles, quality, random)]
        log.writerows(rows)
    with (folder / "films.csv").open("w", newline="") as file:
        films = csv.writer(file)
        films.writerow(("item_id", "title", "genre"))
        films.writerows(dict.fromkeys(tuple(row[1:4]) for row in rows))
    return folder


def _watched_by(
    person: int, titles: list[list[str]], quality: npt.NDArray[np.float64], random: np.random.Generator
) -> list[list[Any]]:
    """What one person has watched, from the first evening to the last."""
    liked = random.choice(len(GENRES), 2, replace=False)
    left_off = random.integers(SERIES, size=len(GENRES))
    country = COUNTRIES[liked[0] % len(COUNTRIES)]
    evening, rows = 0, []
    for n in range(random.integers(4, 40)):
        evening += int(random.random() < 0.3)
        genre = int(random.choice(liked) if random.random() < 0.8 else random.integers(len(GENRES)))
        part = int(left_off[genre]) % SERIES
        left_off[genre] += 1 if random.random() < 0.8 else random.integers(SERIES)
        taste = 4.2 if genre in liked else 2.8
        stars = int(np.clip(random.normal(taste + quality[genre, part], 0.7), 1, 5))
        title = titles[genre][part]
        asked = f"{GENRES[genre].lower()} {title.split()[0]}" if random.random() < 0.5 else "anything"
        at = 1_000_000 + 86_400 * evening + 60 * n
        film = f"f{genre * SERIES + part:03}"
        evening_id = f"p{person}-{evening}"
        rows.append([f"p{person}", film, title, GENRES[genre], country, evening_id, at, stars, asked])
    return rows


def write_toml(
    folder: Path, path: Path, name: str = "watched", sections: Sections = ATTENTION, **changed: Any
) -> Path:
    """Write an experiment on the log in `folder`.

    Args:
        changed: section -> keys of it that shall be something else.
    """
    data = {**sections["data"], "events": str(folder / "log.csv")}
    data |= {"items": str(folder / data["items"])} if "items" in data else {}
    return write_sections(path, name, {**sections, "data": data}, changed)
