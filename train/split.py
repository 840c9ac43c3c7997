"""Which pairs are learned from, which choose the best epoch, and which are looked at once.

    parts = assign(pairs, items["item_id"], SplitConfig(by="group", seed=0))

By group: groups are shuffled, and fill `test`, then `validation`, up to their shares of the pairs; a
group is never torn apart, so what is tested has no near-twin in training. By time: the latest pairs are
tested on, those before them validated on.
"""

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import polars as pl

from protos.errors import DataError
from train.config import SplitConfig

PARTS = ("train", "validation", "test")


def assign(pairs: pl.DataFrame, config: SplitConfig) -> pl.DataFrame:
    """`pairs` with a column `part`: train, validation or test.

    Raises:
        DataError: a part would be empty, or the split is by time and there is no time.
    """
    if config.by == "time" and "time" not in pairs.columns:
        raise DataError('split.by = "time" needs data.time, the column of the pairs that holds it')
    parts = _by_time(pairs, config) if config.by == "time" else _by_group(pairs, config)
    divided = pairs.with_columns(pl.Series("part", parts, dtype=pl.String))
    for part in PARTS:
        if part not in parts:
            raise DataError(
                f"the {part} part of the split is empty: {pairs.height} pairs in "
                f"{pairs['group'].n_unique()} groups are too few for a split by {config.by}"
            )
    return divided


def split_hash(pairs: pl.DataFrame, item_ids: pl.Series, query_columns: Sequence[str]) -> str:
    """sha256 over (part, item id, query) of every pair, whatever the order of the rows."""
    columns = [pairs["part"], item_ids.gather(pairs["item_row"])]
    columns += [pairs[name] for name in sorted(query_columns)]
    rows = zip(*(column.to_list() for column in columns), strict=True)
    lines = sorted(json.dumps(row, ensure_ascii=False) for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _by_group(pairs: pl.DataFrame, config: SplitConfig) -> list[str]:
    sizes = pairs.group_by("group").len().sort("group")
    order = np.random.default_rng(config.seed).permutation(sizes.height)
    shuffled = [sizes.row(int(position)) for position in order]
    part_of: dict[str, str] = {}
    # The parts that come after need a group each, too.
    for part, share, kept_back in (("test", config.test, 2), ("validation", config.validation, 1)):
        left = [(group, size) for group, size in shuffled if group not in part_of]
        room, filled, wanted = len(left) - kept_back, 0, share * pairs.height
        for group, size in left:
            if room > 0 and filled + size <= wanted:
                part_of[group] = part
                room, filled = room - 1, filled + size
        if not filled and room > 0:
            part_of[min(left, key=lambda each: each[1])[0]] = part
    return [part_of.get(group, "train") for group in pairs["group"]]


def _by_time(pairs: pl.DataFrame, config: SplitConfig) -> list[str]:
    count = pairs.height
    test = round(config.test * count)
    validation = round(config.validation * count)
    # The sort is stable: of pairs at the same time, those further down in the file count as later.
    order = pairs["time"].to_numpy().argsort(kind="stable")
    parts = np.full(count, "train", dtype=object)
    parts[order[count - test :]] = "test"
    parts[order[count - test - validation : count - test]] = "validation"
    return [str(part) for part in parts]
