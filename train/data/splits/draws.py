"""Which groups, or which times, are test and validation."""

import hashlib
import math

import numpy as np
import numpy.typing as npt
import polars as pl

from twinspire.train.config.data import SplitConfig
from twinspire.train.data.splits.parts import PART, TOLERANCE


def split_by_group(pairs: pl.DataFrame, config: SplitConfig) -> pl.Series:
    """The part of every pair."""
    part_of = draw_groups(pairs.group_by("group").len(), config)
    return pairs.select("group").join(part_of, on="group", how="left", maintain_order="left")["part"]


def split_by_time(pairs: pl.DataFrame, config: SplitConfig) -> pl.Series:
    """The part of every pair."""
    test, validation = time_cuts(pairs["time"].to_numpy().copy(), config)
    return pairs.select(
        part=pl.when(pl.col("time") >= test)
        .then(pl.lit("test", PART))
        .when(pl.col("time") >= validation)
        .then(pl.lit("validation", PART))
        .otherwise(pl.lit("train", PART))
    )["part"]


def time_cuts(times: npt.NDArray[np.float64], config: SplitConfig) -> tuple[float, float]:
    """The times from which on pairs are in test, and in validation; equal times are in one part.

    Args:
        times: of all pairs; they are sorted in place.
    """
    if not len(times):
        return math.inf, math.inf
    times.sort()
    test = times[max(0, len(times) - max(1, round(config.test * len(times))))]
    earlier = int(np.searchsorted(times, test))
    size = max(1, round(config.validation * len(times)))
    return float(test), float(times[max(0, earlier - size)] if earlier else test)


def draw_groups(sizes: pl.DataFrame, config: SplitConfig) -> pl.DataFrame:
    """`group` and `part` of every group, by a hash of its name.

    The hash of a group is a place between 0 and 1, and each part takes the groups of a range that is as long
    as its share. Three rules hold for few or large groups. A group that is larger than the share is in
    training. A group with which the part would hold more than 1.5 times its share is left out of it. Where
    the groups of a range hold less than half of the share, the next ones by their place are added; if no
    group is small enough, the smallest one. A log that grows moves no group to which none of these applies.

    Args:
        sizes: name of each group (`group`, unique), and the number of its pairs (`len`).
    """
    size_of: dict[str, int] = dict(sizes.select("group", "len").iter_rows())
    total, places = sum(size_of.values()), {group: _hashed_place(group, config.seed) for group in size_of}
    part_of: dict[str, str] = {}
    begin = 0.0
    # Test leaves at least two groups, validation at least one: for the parts that are drawn later.
    for part, share, remaining in (("test", config.test, 2), ("validation", config.validation, 1)):
        left = [group for group in size_of if group not in part_of]
        room, size, filled = len(left) - remaining, share * total, 0
        for group in sorted(left, key=lambda each: ((places[each] - begin) % 1, each)):
            is_in_range = begin <= places[group] < begin + share
            fits = size_of[group] <= size and filled + size_of[group] <= (1 + TOLERANCE) * size
            if room > 0 and fits and (is_in_range or filled < (1 - TOLERANCE) * size):
                part_of[group] = part
                room, filled = room - 1, filled + size_of[group]
        if not filled and room > 0:
            part_of[min(left, key=lambda each: (size_of[each], each))] = part
        begin += share
    return sizes.select("group", part=pl.Series([part_of.get(each, "train") for each in size_of], dtype=PART))


def _hashed_place(group: str, seed: int) -> float:
    """A number from 0 to 1 that is the same on every machine."""
    digest = hashlib.sha256(f"{seed} {group}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64
