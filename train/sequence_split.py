"""Splits of events: what a user did last is what is foretold, from what the user did before.

Every record's history is `history[begin:end]`, the opening of its user's run. It never holds the record's
own event or a later one, and a record of validation never sees an event of test:

| by             | test                    | validation               | history of a record                |
|----------------|-------------------------|--------------------------|------------------------------------|
| `last`         | a user's last positive  | the one before it        | what came before it                |
| `last_session` | a user's last session   | the session before it    | what came before its session       |
| `time`         | the latest share of all | the share before that    | what came before it; of test and   |
|                |                         |                          | validation, before the part's cut  |
| `file`         | the test file           | a user's last positive   | what came before it; of test, all  |
| `group`        | whole users             | whole users              | what came before it                |

A negative goes where its place among the positives says: after the first that is tested on, to test. In
test and validation it shares their history, so that it does not give away what they are to foretell.
"""

import numpy as np
import polars as pl

from train.config import SplitConfig
from train.pair_split import by_group
from train.sources.interactions import SEEN, lay_out

COLD = "cold"

_SEEN = SEEN & ~pl.col("__cold")
_POSITION = pl.col("position")


def divide(events: pl.DataFrame, config: SplitConfig) -> pl.DataFrame:
    """Events with `part`, `begin` and `end`; `position` and `user_start` leave out cold items.

    Args:
        events: laid out, see `train.sources.interactions`.
    """
    columns = events.columns
    if "in_test_file" not in columns:
        events = events.with_columns(in_test_file=pl.lit(False))
    warm, _ = lay_out(events.with_columns(_cold(events, config)), _SEEN)
    warm = warm.with_columns((_SEEN & ~pl.col("in_test_file")).alias("__seen"))
    ways = {"last": _last, "last_session": _last_session, "time": _by_time, "file": _by_file}
    divided = ways[config.by](warm, config) if config.by in ways else _by_user(warm, config)
    start = pl.col("user_start")
    return divided.select(
        *columns,
        pl.when("__cold").then(pl.lit(COLD)).otherwise(pl.col("__part")).alias("part"),
        start.alias("begin"),
        (start + pl.col("__end")).cast(pl.Int64).alias("end"),
    )


def history_of(events: pl.DataFrame, config: SplitConfig) -> pl.Series:
    """What `begin` and `end` of divided events point into: UInt32 (H,), rows of items."""
    unseen = [COLD, "test"] if config.by == "file" else [COLD]
    return events.filter(SEEN & ~pl.col("part").is_in(unseen))["item_row"].rename("history")


def _cold(events: pl.DataFrame, config: SplitConfig) -> pl.Series:
    """Whether an event's item is one of those that are kept out of training."""
    items = events["item_row"].unique().sort()
    count = max(1, round(config.cold_items * len(items))) if config.cold_items else 0
    # A stream of its own: the same groups are drawn with and without cold items.
    drawn = np.random.default_rng([config.seed, 1]).permutation(len(items))[:count]
    return events["item_row"].is_in(items[np.sort(drawn)].implode()).alias("__cold")


def _parts(
    divided: pl.DataFrame, test: pl.Expr, validation: pl.Expr, ends: dict[str, pl.Expr]
) -> pl.DataFrame:
    """`__part`, and `__end` by part; a test that is null counts as false. A cold record ends like train."""
    tested, validated = (test.fill_null(False), validation.fill_null(False))
    part = pl.when(tested).then(pl.lit("test")).when(validated).then(pl.lit("validation"))
    end = pl.when("__cold").then(ends["train"]).when(tested).then(ends["test"])
    end = end.when(validated).then(ends["validation"])
    return divided.with_columns(
        part.otherwise(pl.lit("train")).alias("__part"), end.otherwise(ends["train"]).alias("__end")
    )


def _by_user(events: pl.DataFrame, config: SplitConfig) -> pl.DataFrame:
    part = pl.Series("__part", by_group(events, config), dtype=pl.String)
    return events.with_columns(part, _POSITION.alias("__end"))


def _last(events: pl.DataFrame, config: SplitConfig) -> pl.DataFrame:
    count = pl.col("__seen").sum().cast(pl.Int64).over("group")
    # Of a positive its own place, of a negative that of the positive before it.
    place = _POSITION - (~pl.col("__seen")).cast(pl.Int64)
    enough = count >= 3
    return _parts(
        events,
        enough & (place >= count - 1),
        enough & (place == count - 2),
        {"test": count - 1, "validation": count - 2, "train": _POSITION},
    )


def _by_file(events: pl.DataFrame, config: SplitConfig) -> pl.DataFrame:
    count = pl.col("__seen").sum().cast(pl.Int64).over("group")
    place = _POSITION - (~pl.col("__seen")).cast(pl.Int64)
    return _parts(
        events,
        pl.col("in_test_file"),
        (count >= 2) & (place >= count - 1),
        {"test": count, "validation": count - 1, "train": _POSITION},
    )


def _last_session(events: pl.DataFrame, config: SplitConfig) -> pl.DataFrame:
    """Sessions are in order of where they begin; only those with a positive are tested on."""
    session = ["group", "session"]
    placed = events.with_row_index("__row").with_columns(
        pl.col("__row").cast(pl.Int64).min().over(session).alias("__begins"),
        _POSITION.min().over(session).alias("__before"),
        pl.col("__seen").any().over(session).alias("__positive"),
    )
    begins, before, positive = pl.col("__begins"), pl.col("__before"), pl.col("__positive")
    placed = placed.with_columns(_latest(positive, begins).alias("__last"))
    placed = placed.with_columns(_latest(positive & (begins < pl.col("__last")), begins).alias("__ahead"))
    enough = before >= config.min_history
    test = enough & (begins == pl.col("__last"))
    validation = enough & (begins == pl.col("__ahead"))
    return _parts(
        placed,
        begins >= _latest(test, begins),
        begins >= _latest(validation, begins),
        {"test": _latest(test, before), "validation": _latest(validation, before), "train": before},
    )


def _latest(where: pl.Expr, value: pl.Expr) -> pl.Expr:
    """The largest of a user's values where something holds, null where it holds nowhere."""
    return pl.when(where).then(value).max().over("group")


def _by_time(events: pl.DataFrame, config: SplitConfig) -> pl.DataFrame:
    """Cuts at a time: of events at one time none is on the other side of a cut."""
    times = events.filter(~pl.col("__cold"))["time"].sort()
    test = times[max(0, len(times) - max(1, round(config.test * len(times))))]
    earlier = times.filter(times < test)
    wanted = max(1, round(config.validation * len(times)))
    validation = earlier[max(0, len(earlier) - wanted)] if len(earlier) else test
    time = pl.col("time")

    def before(cut: float) -> pl.Expr:
        return (pl.col("__seen") & (time < cut)).sum().cast(pl.Int64).over("group")

    ends = {"test": before(test), "validation": before(validation), "train": _POSITION}
    return _parts(events, time >= test, time >= validation, ends)
