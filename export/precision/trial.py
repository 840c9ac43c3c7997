"""What variants are judged on: queries of the test part, and the items that they are to find, in float32.

A variant of one side is judged beside the other side's float32 vectors, by exact search, so that a loss is
the variant's alone, and none of an index.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console

from export.backends import Encode
from export.catalogue import encode_all
from protos.features import Side, TowerInputs
from train.config.precision import PrecisionConfig
from train.evaluation import search
from train.metrics import per_query
from train.problem import Problem

Rows = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
PerQuery = dict[str, npt.NDArray[np.float64]]

METRICS = ("recall_at_10", "ndcg_at_10")
K = 10


@dataclass(frozen=True)
class Trial:
    """Queries (Q) and items (N) of a problem.

    Args:
        problem: that they are of.
        queries: rows of the queries in the problem.
        items: rows of the items, in order.
        relevant: for each query the places in `items` that answer it.
        seen: for each query the places in `items` that are no answer to it.
        vectors: side -> float32 (Q, D) and (N, D), of the towers in float32.
        baseline: metric -> (Q,), with those vectors.
    """

    problem: Problem
    queries: Rows
    items: Rows
    relevant: list[Rows]
    seen: list[Rows]
    vectors: dict[Side, Vectors]
    baseline: PerQuery

    @property
    def whole(self) -> bool:
        """Whether the items are the whole catalogue."""
        return len(self.items) == self.problem.item_count

    def encode(
        self, side: Side, encode: Encode, inputs: TowerInputs, console: Console, title: str
    ) -> Vectors:
        """Vectors of the trial's queries or items by an encoder."""
        return _encoded(self.problem, side, self._rows(side), encode, inputs, console, title)

    def judge(self, queries: Vectors, items: Vectors) -> PerQuery:
        """Metric -> (Q,): recall@10 and nDCG@10 of each query by exact search.

        Args:
            queries: (Q, D).
            items: (N, D).
        """
        return _judged(queries, items, self.relevant, self.seen)

    def judge_side(self, side: Side, vectors: Vectors) -> PerQuery:
        """As `judge`, of one side's vectors beside the other's in float32."""
        both = {**self.vectors, side: vectors}
        return self.judge(both["query"], both["item"])

    def told(self) -> dict[str, Any]:
        """What a report says of it."""
        return {
            "queries": len(self.queries),
            "items": len(self.items),
            "catalogue": self.problem.item_count,
            **{f"fp32_{name}": float(self.baseline[name].mean()) for name in METRICS},
        }

    def _rows(self, side: Side) -> Rows:
        return self.queries if side == "query" else self.items


def make_trial(
    problem: Problem,
    towers: Mapping[Side, tuple[TowerInputs, Encode]],
    config: PrecisionConfig,
    console: Console,
) -> Trial:
    """Draw queries and items, and encode them in float32.

    Args:
        towers: side -> inputs and encoder of the tower in float32.
    """
    random = np.random.default_rng(config.seed)
    queries, relevant = problem.parts["test"].by_query()
    kept = np.sort(random.permutation(len(queries))[: config.queries])
    queries, relevant = queries[kept], [relevant[n] for n in kept]
    items = _sampled(np.unique(np.concatenate(relevant)), problem.item_count, config.items, random)
    places = np.full(problem.item_count, -1, np.int64)
    places[items] = np.arange(len(items))
    relevant = [places[rows] for rows in relevant]
    seen = [found[found >= 0] for found in (places[rows] for rows in problem.seen(queries))]
    rows: dict[Side, Rows] = {"query": queries, "item": items}
    vectors: dict[Side, Vectors] = {}
    for side, (inputs, encode) in towers.items():
        title = "test queries, fp32" if side == "query" else "items, fp32"
        vectors[side] = _encoded(problem, side, rows[side], encode, inputs, console, title)
    baseline = _judged(vectors["query"], vectors["item"], relevant, seen)
    return Trial(problem, queries, items, relevant, seen, vectors, baseline)


def _sampled(relevant: Rows, count: int, most: int, random: np.random.Generator) -> Rows:
    """All items, or where they are more than `most` those that are relevant and a sample of others."""
    if count <= most:
        return np.arange(count)
    others = np.setdiff1d(np.arange(count), relevant)
    drawn = random.permutation(others)[: max(0, most - len(relevant))]
    return np.sort(np.concatenate([relevant, drawn]))


def _encoded(
    problem: Problem,
    side: Side,
    rows: Rows,
    encode: Encode,
    inputs: TowerInputs,
    console: Console,
    title: str,
) -> Vectors:
    values = problem.queries if side == "query" else problem.items
    count = problem.query_count if side == "query" else problem.item_count
    if len(rows) < count:
        values = {name: [column[row] for row in rows] for name, column in values.items()}
    return encode_all(encode, inputs, values, console, title)


def _judged(queries: Vectors, items: Vectors, relevant: Sequence[Rows], seen: Sequence[Rows]) -> PerQuery:
    ranked = search(torch.from_numpy(queries), torch.from_numpy(items), K, seen)
    found = per_query(ranked, relevant)
    return {name: found[name] for name in METRICS}
