"""A split is seeded, keeps its shares and never divides a group."""

from typing import Literal

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.errors import DataError
from train.config import SplitConfig
from train.data.splits import PARTS, assign_parts, split_hash


def pairs_of(groups: list[str], times: list[float] | None = None) -> pl.DataFrame:
    columns: dict[str, pl.Series] = {
        "query": pl.Series([f"query {n}" for n in range(len(groups))], dtype=pl.String),
        "item_row": pl.Series(range(len(groups)), dtype=pl.UInt32),
        "group": pl.Series(groups, dtype=pl.String),
    }
    if times is not None:
        columns["time"] = pl.Series(times, dtype=pl.Float64)
    return pl.DataFrame(columns)


def many_groups(seed: int = 0) -> pl.DataFrame:
    return pairs_of([str(n) for n in np.random.default_rng(seed).integers(0, 300, 2000)])


def test_parts_have_their_shares() -> None:
    parts = assign_parts(many_groups(), SplitConfig(validation=0.05, test=0.1))["part"]
    shares = {part: (parts == part).mean() for part in PARTS}
    assert shares["test"] == pytest.approx(0.1, abs=0.01)
    assert shares["validation"] == pytest.approx(0.05, abs=0.01)


def test_no_group_is_divided() -> None:
    divided = assign_parts(many_groups(), SplitConfig())
    assert divided.group_by("group").agg(pl.col("part").n_unique())["part"].max() == 1


def test_the_seed_decides_and_the_order_of_rows_does_not() -> None:
    pairs = many_groups()
    drawn = assign_parts(pairs, SplitConfig(seed=1)).sort("item_row")
    shuffled = pairs.sample(fraction=1.0, shuffle=True, seed=3)
    assert assign_parts(shuffled, SplitConfig(seed=1)).sort("item_row").equals(drawn)
    assert not assign_parts(pairs, SplitConfig(seed=2)).sort("item_row").equals(drawn)


def test_a_group_larger_than_a_part_is_in_training() -> None:
    groups = ["huge"] * 900 + [f"small {n}" for n in range(100)]
    for seed in range(5):
        divided = assign_parts(pairs_of(groups), SplitConfig(seed=seed, validation=0.04, test=0.05))
        assert set(divided.filter(pl.col("group") == "huge")["part"]) == {"train"}


@given(sizes=st.lists(st.integers(1, 20), min_size=3, max_size=40), seed=st.integers(0, 99))
def test_three_groups_are_enough(sizes: list[int], seed: int) -> None:
    groups = [str(n) for n, size in enumerate(sizes) for _ in range(size)]
    divided = assign_parts(pairs_of(groups), SplitConfig(seed=seed))
    assert set(divided["part"]) == set(PARTS)
    assert divided.height == len(groups)


@pytest.mark.parametrize("by", ["group", "time"])
def test_too_few_pairs_are_an_error(by: Literal["group", "time"]) -> None:
    with pytest.raises(DataError, match="part of the split is empty"):
        assign_parts(pairs_of(["a", "a"], [1.0, 2.0]), SplitConfig(by=by))


def test_the_latest_pairs_are_test() -> None:
    times = [float(n) for n in np.random.default_rng(0).permutation(100)]
    divided = assign_parts(pairs_of(["g"] * 100, times), SplitConfig(by="time")).sort("time")
    assert divided["part"].to_list() == ["train"] * 85 + ["validation"] * 5 + ["test"] * 10


def test_of_pairs_at_one_time_the_later_rows_are_later() -> None:
    divided = assign_parts(pairs_of(["g"] * 20, [7.0] * 20), SplitConfig(by="time"))
    assert divided["part"].to_list() == ["train"] * 17 + ["validation"] + ["test"] * 2


def test_a_split_by_time_needs_a_time() -> None:
    with pytest.raises(DataError, match=r"data\.time"):
        assign_parts(pairs_of(["a"]), SplitConfig(by="time"))


def test_the_hash_depends_on_parts_and_pairs_but_not_on_their_order() -> None:
    ids = pl.Series("item_id", [f"item {n}" for n in range(2000)])
    divided = assign_parts(many_groups(), SplitConfig())
    known = split_hash(divided, ids, ["query"])
    assert split_hash(divided.reverse(), ids, ["query"]) == known
    other_part = divided.with_columns(part=pl.lit("train"))
    other_query = divided.with_columns(query=pl.col("query") + "?")
    other_item = divided.with_columns(item_row=pl.col("item_row").reverse())
    for other in (other_part, other_query, other_item):
        assert split_hash(other, ids, ["query"]) != known


def test_the_hash_is_the_same_on_every_machine() -> None:
    pairs = pl.DataFrame({"query": ["a", "ü"], "item_row": [1, 0], "part": ["train", "test"]})
    pairs = pairs.with_columns(pl.col("item_row").cast(pl.UInt32))
    known = "545e7d567a3da02c0ff6e5fdf15fded866b159ed12fcd314b57bb1252d82fb17"
    assert split_hash(pairs, pl.Series(["007", "7"]), ["query"]) == known
