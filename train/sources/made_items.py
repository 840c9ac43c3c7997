"""Items made of a log: what an item is, as its events tell it."""

from collections.abc import Mapping

import polars as pl

from protos.errors import DataError
from train.config.events import Rule
from train.sources.columns import Columns


def make_items(events: Columns, item: str, rules: Mapping[str, Rule], time: str = "") -> Columns:
    """One row an item, in the order of first appearance: `item_id` and a value for each rule.

    Args:
        events: the log, cleaned.
        item: its column of item ids.
        rules: column -> how its values become one; absent and blank ones are passed over.
        time: its column of times, which `first`, `last` and ties go by; the order of the file if empty.

    Raises:
        DataError: a value is no number where a number is needed, or an item has none at all.
    """
    ids = events.required(item, "an item id")
    table = pl.DataFrame({"item_id": ids, "__place": events.places.cast(pl.Int64)})
    for name, rule in rules.items():
        numeric = rule in ("mean", "median", "min", "max")
        values = events.numbers(name) if numeric else _not_blank(events.strings(name))
        table = table.with_columns(values.alias(name))
    if time:
        table = table.with_columns(events.times(time).alias("__time"))
        table = table.sort("__time", maintain_order=True)
    made = table.group_by("item_id").agg(pl.col("__place").min()).sort("__place")
    for name, rule in rules.items():
        made = made.join(_one_each(table, name, rule), on="item_id", how="left", maintain_order="left")
        lacking = made[name].is_null()
        if lacking.any():
            found = made["item_id"][lacking.arg_max() or 0]
            raise DataError(
                f"{events.path}: column {name!r}: item {found!r} has no value in any of its events; "
                f"a filter {{ column = {name!r}, present = true }} leaves such events out"
            )
    return Columns(events.path, made.drop("__place"), made["__place"])


def _not_blank(strings: pl.Series) -> pl.Series:
    return strings.to_frame("s").select(pl.when(pl.col("s").str.strip_chars() != "").then("s"))["s"]


def _one_each(table: pl.DataFrame, name: str, rule: Rule) -> pl.DataFrame:
    """`item_id` and the one value of each item that has any."""
    present = table.filter(pl.col(name).is_not_null()).select("item_id", name)
    if rule == "most_common":
        counts = (
            present.with_row_index("__first").group_by("item_id", name).agg(pl.len(), pl.col("__first").min())
        )
        ranked = counts.sort(["len", "__first"], descending=[True, False])
        return ranked.unique("item_id", keep="first", maintain_order=True).select("item_id", name)
    value = pl.col(name)
    rules = {
        "first": value.first,
        "last": value.last,
        "mean": value.mean,
        "median": value.median,
        "min": value.min,
        "max": value.max,
    }
    return present.group_by("item_id", maintain_order=True).agg(rules[rule]())
