"""What a data set holds, as short lines, before anything is trained."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import polars as pl

from twinspire.protos.features import FeatureSpec, TextFeature
from twinspire.train.config import Experiment
from twinspire.train.data.columns import column_names
from twinspire.train.data.dataset import Dataset, dense_ranks
from twinspire.train.data.source import POSITIVE

Counts = npt.NDArray[np.int64]


def contents(dataset: Dataset, experiment: Experiment) -> list[str]:
    """Lines on what a data set holds.

    Args:
        experiment: whose features say which columns are read.
    """
    items = dataset.items
    unit = "queries" if dataset.history is None else "users"
    asks = column_names(experiment.query)
    who = asks if dataset.history is None else ["group"]
    pairs = dataset.columns("part", "item_row", *who, *asks, "^label$")
    positive = pairs.filter(POSITIVE) if "label" in pairs.columns else pairs
    asked = positive.select("part", "item_row", dense_ranks(positive.select(who)).alias(unit))
    lengths = _lengths("query", pairs, experiment.query) | _lengths("item", items, experiment.item)
    texts = [spec.column for spec in experiment.item.values() if isinstance(spec, TextFeature)]
    read = {"item": items.select(pl.exclude("^__.*$")), "query": pairs.select(asks)}
    return [
        *(_of_lengths(name, each) for name, each in lengths.items()),
        _of_counts("items", np.bincount(asked["item_row"], minlength=items.height)),
        _of_counts(unit, np.bincount(asked[unit])),
        _duplicates(items, asked, texts),
        _unseen(asked, unit),
        _missing(read),
        *dataset.report["origin"].get("notes", ()),
    ]


def _lengths(side: str, table: pl.DataFrame, features: Mapping[str, FeatureSpec]) -> dict[str, Counts]:
    """Name of each text feature -> characters of its distinct texts."""
    return {
        f"{side}.{name}": table[spec.column].drop_nulls().unique().str.len_chars().cast(pl.Int64).to_numpy()
        for name, spec in features.items()
        if isinstance(spec, TextFeature)
    }


def _of_lengths(name: str, lengths: Counts) -> str:
    low, median, most, high = np.quantile(lengths, [0, 0.5, 0.95, 1], method="nearest").tolist()
    text = f"{name}: {len(lengths):,} distinct texts of {low:,} to {high:,} characters"
    return f"{text}, median {median:,}, 95 % up to {most:,}"


def _of_counts(name: str, counts: Counts) -> str:
    """How the pairs are spread over items, or over those who ask."""
    descending = np.sort(counts)[::-1]
    half = int(np.searchsorted(descending.cumsum(), counts.sum() / 2)) + 1
    text = f"{len(counts):,} {name}: half of the pairs are of {half:,} ({half / len(counts):.1%}); at most "
    text += f"{descending[0]:,} pairs, {(counts == 1).sum():,} {name} have one, {(counts == 0).sum():,} none"
    return text


def _duplicates(items: pl.DataFrame, asked: pl.DataFrame, texts: list[str]) -> str:
    same = items.height - items.unique(texts).height if texts else 0
    repeated = asked.height - dense_ranks(asked.drop("part").cast(pl.UInt32)).n_unique()
    of_texts = f"{same:,} of {items.height:,} items have the texts of an earlier one, " if texts else ""
    return f"duplicates: {of_texts}{repeated:,} of {asked.height:,} pairs repeat an earlier one"


def _unseen(asked: pl.DataFrame, unit: str) -> str:
    """How much of the test part training has not seen."""
    train, test = (asked.filter(pl.col("part") == part) for part in ("train", "test"))
    if not test.height:
        return "test: no pairs"
    items, others = (np.isin(test[name], train[name], invert=True).mean() for name in ("item_row", unit))
    return f"test: items of {items:.1%} of the pairs are new to training, {unit} of {others:.1%}"


def _missing(read: Mapping[str, pl.DataFrame]) -> str:
    """The columns with missing, empty or blank values."""
    found = []
    for side, table in read.items():
        for column in table:
            if column.dtype == pl.String:
                column = column.str.strip_chars().replace("", None)
            elif isinstance(column.dtype, pl.List):
                column = column.list.len().replace(0, None)
            if column.null_count():
                found.append(f"{side} {column.name} {column.null_count() / len(column):.1%}")
    return f"missing: {', '.join(found) or 'nothing'}"
