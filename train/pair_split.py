"""Splits of (query, item) pairs that are in no order: by group, by time, by file.

By group: groups are shuffled, and fill `test`, then `validation`, up to their shares of the pairs; a
group is never torn apart, so what is tested has no near-twin in training. By time: the latest pairs are
tested on, those before them validated on. By file: a table of its own is tested on.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from train.config import SplitConfig


def by_group(pairs: pl.DataFrame, config: SplitConfig) -> list[str]:
    """The part of every pair: whole groups, drawn by the seed."""
    # The parts that come after need a group each, too.
    return _drawn(pairs, (("test", config.test, 2), ("validation", config.validation, 1)), config.seed)


def by_file(pairs: pl.DataFrame, config: SplitConfig) -> list[str]:
    """The part of every pair: test as `in_test_file` says, validation by group among the others."""
    tested = pairs["in_test_file"]
    drawn = iter(_drawn(pairs.filter(~tested), (("validation", config.validation, 1),), config.seed))
    return ["test" if each else next(drawn) for each in tested]


def by_time(pairs: pl.DataFrame, config: SplitConfig) -> list[str]:
    """The part of every pair, by its share of the latest."""
    count = pairs.height
    test = round(config.test * count)
    validation = round(config.validation * count)
    # The sort is stable: of pairs at the same time, those further down in the file count as later.
    order = pairs["time"].to_numpy().argsort(kind="stable")
    parts = np.full(count, "train", dtype=object)
    parts[order[count - test :]] = "test"
    parts[order[count - test - validation : count - test]] = "validation"
    return [str(part) for part in parts]


def _drawn(pairs: pl.DataFrame, wanted: Sequence[tuple[str, float, int]], seed: int) -> list[str]:
    """Parts drawn one after another: its name, its share, and how many groups must be left after it."""
    sizes = pairs.group_by("group").len().sort("group")
    order = np.random.default_rng(seed).permutation(sizes.height)
    shuffled = [sizes.row(int(position)) for position in order]
    part_of: dict[str, str] = {}
    for part, share, kept_back in wanted:
        left = [(group, size) for group, size in shuffled if group not in part_of]
        room, filled = len(left) - kept_back, 0
        for group, size in left:
            if room > 0 and filled + size <= share * pairs.height:
                part_of[group] = part
                room, filled = room - 1, filled + size
        if not filled and room > 0:
            part_of[min(left, key=lambda each: each[1])[0]] = part
    return [part_of.get(group, "train") for group in pairs["group"]]
