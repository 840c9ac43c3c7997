"""A made shop whose queries can drift, and windows of what its service was asked."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from tests.export.served_traffic.logs import BEGUN
from tests.helpers.stdlib import QUICK, Sections, write_sections
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever

NOUNS, ITEMS = 120, 600
DEVICES = ("phone", "desktop", "tablet")
SHELVES = tuple(f"shelf {n}" for n in range(8))
SECTIONS: Sections = {
    "data": {"kind": "files", "items": "items.csv", "pairs": "clicks.csv", "time": "at"},
    "split": {"by": "time", "validation": 0.15, "test": 0.05},
    "query.text": {"kind": "text", "column": "query"},
    "query.device": {"kind": "category", "column": "device"},
    "query.budget": {"kind": "number", "column": "budget"},
    "item.title": {"kind": "text", "column": "title"},
    "item.shelf": {"kind": "category", "column": "shelf"},
    "item.price": {"kind": "number", "column": "price"},
    "tower": {"kind": "bag", "dimension": 32, "latent": 8, "buckets": 4096},
    "training": {"epochs": 2, "threads": 1},
    **QUICK,
    "baselines": {"run": ["popularity"]},
}


@dataclass
class Shopper:
    """Draws queries. Popular nouns are asked for more; a third of the words is rare.

    Args:
        language: what words begin with.
        devices: share of each device.
        budget: factor of the budgets.
        tail: 1 asks for popular nouns, as training has it; 0 for all alike.
    """

    seed: int
    language: str = ""
    devices: Sequence[float] = (0.6, 0.3, 0.1)
    others: float = 0.0
    budget: float = 1.0
    tail: float = 1.0

    def draw(self, count: int) -> list[dict[str, Any]]:
        """Values of the features of some queries, and the number of the noun."""
        rng = np.random.default_rng(self.seed)
        share = (1 / (1 + np.arange(NOUNS))) ** self.tail
        nouns = rng.choice(NOUNS, count, p=share / share.sum())
        device = rng.choice(DEVICES, count, p=self.devices)
        device[rng.random(count) < self.others] = "watch"
        budget = np.round(self.budget * np.exp(rng.normal(3, 0.5, count)), 2)
        rare = rng.integers(0, 4000, count)
        drawn = []
        for n, noun in enumerate(nouns.tolist()):
            words = [f"{self.language}noun{noun}", f"{self.language}style{rng.integers(30)}"]
            words += [f"{self.language}rare{rare[n]}"] if rng.random() < 0.5 else []
            values: dict[str, Any] = {"text": " ".join(words), "device": str(device[n])}
            values |= {"budget": float(budget[n])} if rng.random() < 0.9 else {}
            drawn.append({**values, "noun": noun})
        return drawn


def items(prices: float = 1.0) -> list[dict[str, Any]]:
    """The rows of the table of items."""
    rng = np.random.default_rng(0)
    price = np.exp(rng.normal(3, 0.6, ITEMS))
    shelf = rng.choice(SHELVES, ITEMS)
    return [
        {
            "item_id": f"i{n}",
            "title": f"noun{n % NOUNS} style{n % 30} item{n}",
            "shelf": shelf[n],
            "price": round(float(prices * price[n]), 2),
        }
        for n in range(ITEMS)
    ]


def write_shop(folder: Path, clicks: int = 8_000) -> Path:
    """`items.csv`, `clicks.csv` and `drifting.toml`; returns the path of the last."""
    rng = np.random.default_rng(1)
    write_table(folder / "items.csv", items())
    rows = [
        {
            "query": each["text"],
            "device": each["device"],
            "budget": each.get("budget"),
            "item_id": f"i{each['noun'] + NOUNS * int(rng.integers(ITEMS // NOUNS))}",
            "at": 1_700_000_000 + 60 * n,
        }
        for n, each in enumerate(Shopper(2).draw(clicks))
    ]
    write_table(folder / "clicks.csv", rows)
    return write_sections(folder / "drifting.toml", "drifting", SECTIONS, {})


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def queries(shopper: Shopper, count: int) -> list[Query]:
    """Queries as a client sends them."""
    return [
        Query(each["text"], features={k: v for k, v in each.items() if k in ("device", "budget")})
        for each in shopper.draw(count)
    ]


def window(retriever: Retriever, shopper: Shopper, count: int = 500) -> list[dict[str, Any]]:
    """Rows of a served log: what the retriever answers to queries."""
    asked = queries(shopper, count)
    assert retriever.measures is not None
    encoded = retriever.encode(asked)
    rows = []
    for n, (query, answer) in enumerate(zip(asked, retriever.search(asked, 10), strict=True)):
        values = retriever.query_form.values(query, "query")
        rows.append(
            {
                "request_id": f"{shopper.seed}-{n}",
                "time": BEGUN + timedelta(seconds=n),
                "bundle": retriever.manifest.bundle_version,
                "user": None,
                "measures": retriever.measures(values, encoded.vectors[n]),
                "item_ids": [hit.id for hit in answer.hits],
                "scores": [hit.score for hit in answer.hits],
                "weak": answer.weak,
                "comparable": True,
            }
        )
    return rows
