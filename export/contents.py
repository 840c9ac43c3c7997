"""What a bundle holds beside towers, vectors and index: items as answers show them, and queries to try."""

import json
from pathlib import Path
from typing import Any

import polars as pl

from protos import bundle
from protos.features import HistoryFeature, Schema
from train.config import Experiment
from train.dataset import Dataset
from train.problem import Problem

EXAMPLES = 200  # test queries that travel with the bundle


def write_items(dataset: Dataset, problem: Problem, folder: Path) -> None:
    """Ids, popularity and display fields of all items, in the order of the vectors."""
    items = dataset.items
    fields = {name: [_shown(value) for value in items[name]] for name in dataset.report["display"]}
    counts = problem.counts()
    popularity = (counts / max(1, counts.sum())).tolist()
    content = {"ids": items["item_id"].to_list(), "popularity": popularity, "fields": fields}
    (folder / bundle.ITEMS).write_text(json.dumps(content, ensure_ascii=False))


def examples(experiment: Experiment, problem: Problem, schema: Schema) -> list[dict[str, Any]]:
    """The queries that the experiment names, then some of the test split."""
    drawn = problem.sample("query", "test", EXAMPLES, seed=0)
    for name, spec in schema.query.items():
        if isinstance(spec, HistoryFeature):
            drawn[name] = [history[-spec.max_length :] for history in drawn[name]]
    sampled = [dict(zip(drawn, each, strict=True)) for each in zip(*drawn.values(), strict=True)]
    return [*experiment.examples, *sampled]


def _shown(value: Any) -> str | None:
    """A display field as an answer shows it."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, pl.Series):
        return ", ".join(map(str, value))
    return None if value is None else str(value)
