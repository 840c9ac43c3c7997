"""What there is to learn: queries, items, and which of them belong together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from protos.features import FeatureSpec, Side, TextFeature
from train.dataset import Dataset

Rows = npt.NDArray[np.int64]
PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Pairs:
    """Positive pairs: `query[n]` was answered by `item[n]`.

    Args:
        query: int64 (P,), rows of the distinct queries.
        item: int64 (P,), rows of the items.
        weight: float32 (P,), how much a pair counts in the loss.
    """

    query: Rows
    item: Rows
    weight: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.query)

    def by_query(self) -> tuple[Rows, list[Rows]]:
        """The distinct queries among the pairs, and the items of each."""
        order = np.argsort(self.query, kind="stable")
        queries, starts = np.unique(self.query[order], return_index=True)
        return queries, [np.unique(each) for each in np.split(self.item[order], starts[1:])]


@dataclass(frozen=True)
class Positives:
    """The items of each query over some pairs, for masking: query q has `items[starts[q]:starts[q + 1]]`."""

    items: Rows
    starts: Rows

    @classmethod
    def of(cls, pairs: Pairs, queries: int) -> "Positives":
        """The distinct pairs by query, for query rows below `queries`."""
        distinct = np.unique(np.stack([pairs.query, pairs.item]), axis=1)
        sizes = np.bincount(distinct[0], minlength=queries)
        return cls(distinct[1], np.concatenate([[0], np.cumsum(sizes)]))

    def of_queries(self, queries: Rows) -> tuple[Rows, Rows]:
        """All (place in `queries`, item) of the given queries, as two arrays."""
        begin = self.starts[queries]
        lengths = self.starts[queries + 1] - begin
        place = np.repeat(np.arange(len(queries)), lengths)
        ends = np.cumsum(lengths)
        within = np.arange(len(place)) - np.repeat(ends - lengths, lengths)
        return place, self.items[np.repeat(begin, lengths) + within]


@dataclass(frozen=True)
class Problem:
    """A data set as rows: distinct queries, items, and the pairs of each part.

    Args:
        queries: feature name -> raw values of the distinct queries.
        items: feature name -> raw values of the items, as trained and evaluated.
        parts: part -> its pairs.
    """

    queries: Mapping[str, Sequence[Any]]
    items: Mapping[str, Sequence[Any]]
    parts: Mapping[str, Pairs]
    query_count: int
    item_count: int

    def training_values(self) -> dict[Side, dict[str, list[Any]]]:
        """Side -> feature name -> raw values of the records in training pairs."""
        train = self.parts["train"]
        rows: dict[Side, Rows] = {"query": np.unique(train.query), "item": np.unique(train.item)}
        sides: dict[Side, Mapping[str, Sequence[Any]]] = {"query": self.queries, "item": self.items}
        return {
            side: {name: [values[n] for n in rows[side]] for name, values in sides[side].items()}
            for side in sides
        }

    def sample(self, side: Side, part: str, count: int, seed: int) -> dict[str, list[Any]]:
        """Feature name -> raw values of up to `count` records drawn from one part's pairs."""
        pairs = self.parts[part]
        rows = np.unique(pairs.query if side == "query" else pairs.item)
        drawn = np.random.default_rng(seed).permutation(rows)[:count]
        values = self.queries if side == "query" else self.items
        return {name: [column[row] for row in drawn] for name, column in values.items()}


def problem_of(
    dataset: Dataset, query: Mapping[str, FeatureSpec], item: Mapping[str, FeatureSpec]
) -> Problem:
    """The data set with equal queries made one."""
    columns = list(dict.fromkeys(spec.column for spec in query.values()))
    keyed = dataset.pairs.with_columns(
        pl.struct(columns).rank("dense").cast(pl.Int64).sub(1).alias("__query")
    )
    distinct = keyed.unique("__query", keep="first").sort("__query")
    parts = {}
    for part in PARTS:
        of_part = keyed.filter(pl.col("part") == part)
        parts[part] = Pairs(
            of_part["__query"].to_numpy(writable=True),
            of_part["item_row"].cast(pl.Int64).to_numpy(writable=True),
            of_part["weight"].to_numpy(writable=True),
        )
    return Problem(
        values_of(distinct, query),
        values_of(dataset.items, item),
        parts,
        distinct.height,
        dataset.items.height,
    )


def values_of(
    table: pl.DataFrame, features: Mapping[str, FeatureSpec], catalogue: bool = False
) -> dict[str, list[Any]]:
    """Feature name -> raw values of every row.

    Args:
        catalogue: read a text feature's `catalogue_column` where it has one.
    """
    values = {}
    for name, spec in features.items():
        served = catalogue and isinstance(spec, TextFeature) and spec.catalogue_column
        values[name] = table[served or spec.column].to_list()
    return values


def texts_of(values: Mapping[str, Sequence[Any]], features: Mapping[str, FeatureSpec]) -> list[str]:
    """All text features of each record in one string, for baselines that read text."""
    columns = [values[name] for name, spec in features.items() if isinstance(spec, TextFeature)]
    return ["\n".join(parts) for parts in zip(*columns, strict=True)]
