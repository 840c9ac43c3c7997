"""A tiny shop whose queries share no word with titles, so that only clicks tell which item is asked for."""

from pathlib import Path
from typing import Any

import numpy as np

from tests.helpers.served import START, Answer, event, write_events, write_log
from tests.helpers.stdlib import QUICK, Sections, write_sections

OLD, ALL = 45, 60  # items of before, and with the new ones
NAME = "tiny-shop"
MODEL: Sections = {
    "split": {"by": "time", "test": 0.15, "validation": 0.1},
    "query.text": {"kind": "text", "column": "query", "max_length": 32},
    "item.title": {"kind": "text", "column": "title", "max_length": 32},
    "tower": {"kind": "bag", "dimension": 32, "latent": 8, "buckets": 2048, "item_hidden": 0},
    "loss": {"kind": "in_batch_softmax"},
    "training": {
        "epochs": 8,
        "batch_size": 64,
        "learning_rate": 0.02,
        "threads": 1,
        "selection": "ndcg_at_10",
    },
    "index": {"threads": 1, "m": 8, "ef_construction": 50},
    **QUICK,
    "gates": {"iterations": 100, "query_tower_p99_ratio": 100.0, "retriever_p99_ratio": 100.0},
}


def words(seed: int, count: int) -> list[str]:
    """Words of eight letters, which share few of their parts."""
    draw = np.random.default_rng(seed)
    return ["".join(letters) for letters in draw.choice([*"abcdefghijklmnopqrstuvwxyz"], (count, 8))]


TITLES, QUERIES = words(1, ALL), words(2, ALL)


def write_items(folder: Path, count: int) -> None:
    """`items.csv` with the first items."""
    rows = [f"i{n},{TITLES[n]}" for n in range(count)]
    (folder / "items.csv").write_text("\n".join(["item_id,title", *rows]) + "\n")


def write_before(folder: Path, clicks: int = 600) -> Path:
    """Tables and TOML of the first champion; returns the path of the TOML."""
    write_items(folder, OLD)
    draw = np.random.default_rng(0)
    asked = draw.integers(0, OLD, clicks)
    rows = [f"{QUERIES[n]},i{n},{1_700_000_000 + at}" for at, n in enumerate(asked)]
    (folder / "clicks.csv").write_text("\n".join(["query,item_id,at", *rows]) + "\n")
    data = {"kind": "files", "items": "items.csv", "pairs": "clicks.csv", "time": "at", "display": ["title"]}
    return write_sections(folder / "before.toml", NAME, {"data": data, **MODEL}, {})


def write_service(folder: Path, clicks: int = 600, wrong: float = 0.0, **retrain: Any) -> Path:
    """Items, a served log, events, and the TOML of the loop, whose path it returns.

    Args:
        wrong: share of the clicks, the oldest, that are on another item than the one that was asked for.
        retrain: keys of `[retrain]`.
    """
    write_items(folder, ALL)
    draw = np.random.default_rng(3)
    answers, events = [], []
    for n, asked in enumerate(draw.integers(0, ALL, clicks).tolist()):
        clicked = (asked + 7) % ALL if n < wrong * clicks else asked
        shown = list(dict.fromkeys(f"i{each}" for each in (*draw.integers(0, ALL, 3), clicked)))
        answers.append(Answer(f"r{n}", START + n, shown, {"text": QUERIES[asked]}))
        events.append(event(f"u{n % 20}", f"i{clicked}", START + n + 0.5, f"r{n}"))
    answers.append(Answer("last", START + 2 * 86_400, ["i0"], {"text": QUERIES[0]}))
    write_log(folder / "served", answers)
    write_events(folder / "events.parquet", events)
    data = {"kind": "service", "before": "before.toml", "log": "served", "events": "events.parquet"}
    return write_sections(folder / "loop.toml", NAME, {"data": data, **MODEL, "retrain": retrain}, {})
