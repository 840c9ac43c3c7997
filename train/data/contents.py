"""What a data set holds, as short lines, before anything is trained."""

from collections import Counter
from collections.abc import Iterable, Mapping

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
    spread, missing, texts = _Spread(items.height), Counter[str](), dict[str, pl.Series]()
    for pairs in dataset.ranges("part", "item_row", *who, *asks, "^label$"):
        spread.add(pairs.filter(POSITIVE) if "label" in pairs.columns else pairs, who)
        missing.update(_missing("query", pairs.select(asks)))
        for name, found in _texts("query", pairs, experiment.query).items():
            texts[name] = pl.concat([texts.get(name, found.clear()), found]).unique()
    missing_of_items = _missing("item", items.select(pl.exclude("^__.*$")))
    texts |= _texts("item", items, experiment.item)
    shares = [f"{name} {count / items.height:.1%}" for name, count in missing_of_items.items() if count]
    shares += [f"{name} {count / len(dataset):.1%}" for name, count in missing.items() if count]
    of_items = [spec.column for spec in experiment.item.values() if isinstance(spec, TextFeature)]
    return [
        *(_of_lengths(name, each.str.len_chars().to_numpy()) for name, each in texts.items()),
        _of_counts("items", spread.items),
        _of_counts(unit, np.concatenate(spread.units)),
        spread.duplicates(items, of_items),
        spread.unseen(unit),
        f"missing: {', '.join(shares) or 'nothing'}",
        *dataset.report["origin"].get("notes", ()),
    ]


class _Spread:
    """How the positive pairs are spread over items, and over those who ask.

    Attributes:
        items: (N,), pairs of each item.
        units: for each range of pairs, the pairs of each of those who ask.
    """

    def __init__(self, items: int) -> None:
        self.items = np.zeros(items, np.int64)
        self.units: list[Counts] = []
        self._of_part = {part: np.zeros(items, np.int64) for part in ("train", "test")}
        self._repeated = self._new_units = 0

    def add(self, pairs: pl.DataFrame, who: Iterable[str]) -> None:
        """Count the pairs of a range.

        Args:
            who: columns that tell those who ask apart; none of them is in two ranges.
        """
        asked = pairs.select("part", "item_row", dense_ranks(pairs.select(who)).alias("unit"))
        self.units.append(np.bincount(asked["unit"]))
        self.items += np.bincount(asked["item_row"], minlength=len(self.items))
        distinct = dense_ranks(asked.select("item_row", pl.col("unit").cast(pl.UInt32))).n_unique()
        self._repeated += asked.height - distinct
        train, test = (asked.filter(pl.col("part") == part) for part in ("train", "test"))
        for part, found in (("train", train), ("test", test)):
            self._of_part[part] += np.bincount(found["item_row"], minlength=len(self.items))
        self._new_units += int(np.isin(test["unit"], train["unit"], invert=True).sum())

    def duplicates(self, items: pl.DataFrame, texts: list[str]) -> str:
        """Items with equal texts, and equal pairs."""
        same = items.height - items.unique(texts).height if texts else 0
        of_texts = f"{same:,} of {items.height:,} items have the texts of an earlier one, " if texts else ""
        pairs = self.items.sum()
        return f"duplicates: {of_texts}{self._repeated:,} of {pairs:,} pairs repeat an earlier one"

    def unseen(self, unit: str) -> str:
        """How much of the test part training has not seen."""
        train, test = self._of_part["train"], self._of_part["test"]
        if not test.any():
            return "test: no pairs"
        items, units = test[train == 0].sum() / test.sum(), self._new_units / test.sum()
        return f"test: items of {items:.1%} of the pairs are new to training, {unit} of {units:.1%}"


def _texts(side: str, table: pl.DataFrame, features: Mapping[str, FeatureSpec]) -> dict[str, pl.Series]:
    """Name of each text feature -> its distinct texts."""
    return {
        f"{side}.{name}": table[spec.column].drop_nulls().unique()
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


def _missing(side: str, table: pl.DataFrame) -> dict[str, int]:
    """Name of each column -> its missing, empty or blank values."""
    found = {}
    for column in table:
        if column.dtype == pl.String:
            column = column.str.strip_chars().replace("", None)
        elif isinstance(column.dtype, pl.List):
            column = column.list.len().replace(0, None)
        found[f"{side} {column.name}"] = column.null_count()
    return found
