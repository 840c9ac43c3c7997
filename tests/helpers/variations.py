"""Variations of an event log, to see where a recipe breaks.

They are subsets of one log and overlap, so they confirm a rule hardly more than the log alone does. A rule is
chosen on their validation parts, and `tests/held_out/` has data on which none was chosen.

    python -m tests.helpers.variations log.parquet cut_to_five user item time > cut.csv

Each is a function of a log (a polars frame) and the names of its columns for user, item and time.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import polars as pl

LEAST_EVENTS = 5
LONGEST = 7  # five events of history, one for validation, one for test


def halve_users(log: pl.DataFrame, user: str, item: str, time: str) -> pl.DataFrame:
    """The events of half of the users, drawn with a seed."""
    users = log[user].unique().sort()
    drawn = np.random.default_rng(0).permutation(len(users))[: len(users) // 2]
    return log.filter(pl.col(user).is_in(users[np.sort(drawn)].implode()))


def first_half(log: pl.DataFrame, user: str, item: str, time: str) -> pl.DataFrame:
    """The events up to the median time."""
    return log.filter(pl.col(time) <= log[time].sort()[(log.height - 1) // 2])


def cut_to_five(log: pl.DataFrame, user: str, item: str, time: str) -> pl.DataFrame:
    """The last events of each user, so that the tested history holds five or six."""
    return log.sort(time, maintain_order=True).group_by(user, maintain_order=True).tail(LONGEST)


def drop_rare_items(log: pl.DataFrame, user: str, item: str, time: str) -> pl.DataFrame:
    """The events of items that have at least `LEAST_EVENTS` of them."""
    return log.filter(pl.len().over(item) >= LEAST_EVENTS)


VARIATIONS: Mapping[str, Callable[[pl.DataFrame, str, str, str], pl.DataFrame]] = {
    each.__name__: each for each in (halve_users, first_half, cut_to_five, drop_rare_items)
}


def main(path: str, name: str, user: str, item: str, time: str) -> None:
    """Write a variation of a Parquet or CSV file to standard output, as CSV."""
    log = pl.read_parquet(path) if Path(path).suffix == ".parquet" else pl.read_csv(path)
    sys.stdout.write(VARIATIONS[name](log, user, item, time).write_csv())


if __name__ == "__main__":
    main(*sys.argv[1:])
