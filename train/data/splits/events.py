"""The split of events of users, with the history of each; the table in `__init__.py` says what it is."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import numpy as np
import polars as pl

from twinspire.train.config.data import SplitConfig
from twinspire.train.data.long_arrays import ArrayWriter
from twinspire.train.data.partitions import Partitions
from twinspire.train.data.source import POSITIVE
from twinspire.train.data.splits.draws import draw_groups, time_cuts
from twinspire.train.data.splits.parts import COLD, PART, PARTS, SHOWN

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)

_WARM_POSITIVE = POSITIVE & ~pl.col("__cold")
_POSITION = pl.col("position")


def known_events(events: Frame, by: str) -> Frame:
    """The events that are in a history or in a negative history, in order."""
    held_out: list[str] = ["test", "validation", SHOWN] if by == "random" else []
    return events.filter(~pl.col("part").is_in([COLD, *held_out]))


def split_events(events: Partitions, config: SplitConfig, users: pl.Series) -> Partitions:
    """See `assign_parts`; histories do not count cold items.

    Args:
        events: as `filter_events` returns them.
        users: ids of all users.
    """
    is_cold = pl.col("item_row").is_in(_cold_items(events, config).implode())
    split_function = _split_function(events, config, users, is_cold)
    drawn = np.random.default_rng([config.seed, 2])
    items_before = negatives_before = 0  # in the partitions before

    def placed(part: pl.DataFrame) -> pl.DataFrame:
        nonlocal items_before, negatives_before
        marked = part.with_columns(__cold=is_cold)
        marked = marked.with_columns(_held_out(marked, config, drawn))
        found = _place_events(marked, lambda warm: split_function(warm, config))
        result = found.select(
            *part.columns,
            "position",
            pl.col("user_start") + items_before,
            pl.when("__cold").then(pl.lit(COLD, PART)).otherwise("__part").alias("part"),
            (pl.col("user_start") + items_before).alias("begin"),
            (pl.col("user_start") + pl.col("__end")).cast(pl.Int64).alias("end") + items_before,
            pl.col("negative_begin", "negative_end") + negatives_before,
        )
        items_before += int(found["__in_history"].sum())
        negatives_before += int(found["__negative"].sum())
        return result

    return events.map(placed)


def _place_events(events: pl.DataFrame, split: Callable[[pl.DataFrame], pl.DataFrame]) -> pl.DataFrame:
    """A partition with the positions of its events, as if it were alone, and with what `split` adds."""
    warm = events.with_columns(
        (_WARM_POSITIVE & pl.col("__held").is_null()).alias("__in_history"),
        (~POSITIVE & ~pl.col("__cold")).alias("__negative"),
    )
    before, rejected = _count_before("__in_history"), _count_before("__negative")
    warm = warm.with_columns(before.alias("__before"), rejected.alias("__negatives_before"))
    start = pl.col("__before").min().over("group")
    warm = warm.with_columns(
        (pl.col("__before") - start).alias("position"),
        start.alias("user_start"),
        pl.col("__negatives_before").min().over("group").alias("negative_begin"),
    )
    placed = split(warm)
    if "negative_end" not in placed.columns:
        placed = placed.with_columns(_negative_end(placed))
    return placed


def _count_before(name: str) -> pl.Expr:
    """Int64: the number of earlier rows where a column is true."""
    return pl.col(name).cast(pl.Int64).cum_sum() - pl.col(name)


def _split_function(
    events: Partitions, config: SplitConfig, users: pl.Series, is_cold: pl.Expr
) -> Callable[[pl.DataFrame, SplitConfig], pl.DataFrame]:
    """The function that divides a partition, with what it needs to know of all of them."""
    if config.by == "time":
        times = ArrayWriter(np.float64)
        for each in events.select("item_row", "time"):
            times.append(each.filter(~is_cold)["time"].to_numpy())
        return partial(_events_by_time, cuts=time_cuts(times.finish(), config))
    if config.by == "group":
        sizes = pl.concat(each.group_by("group").len() for each in events.select("group"))
        parts = draw_groups(sizes.with_columns(group=users.gather(sizes["group"])), config)["part"]
        return partial(_events_by_user, part_of=sizes.select("group", __part=parts))
    return {"last": _events_by_last, "last_session": _events_by_last_session, "random": _events_at_random}[
        config.by
    ]


def _negative_end(events: pl.DataFrame) -> pl.Series:
    """Int64, of each event: the end of its negative history among the negative events of all users.

    These are the negative events before its own, up to the positive that follows its history: where the
    history ends before the event, the negative history does so, too.
    """
    users = events["group"].rle_id().to_numpy().astype(np.int64)
    position = events["position"].to_numpy().astype(np.int64)
    width = int(position.max(initial=0)) + 2
    negative = events["__negative"].to_numpy()
    places = users * width + position  # ascending
    ends = users * width + events["__end"].cast(pl.Int64).to_numpy()
    visible = np.searchsorted(places[negative], ends, "right")
    own = events["__negatives_before"].to_numpy()
    return pl.Series("negative_end", np.minimum(visible, own), dtype=pl.Int64)


def _cold_items(events: Partitions, config: SplitConfig) -> pl.Series:
    """The items that are kept out of training."""
    if not config.cold_items:
        return pl.Series([], dtype=pl.UInt32)
    items = pl.concat(each["item_row"].unique() for each in events.select("item_row")).unique().sort()
    count = max(1, round(config.cold_items * len(items)))
    # A random stream of its own, so that the same groups are drawn with and without cold items.
    drawn = np.random.default_rng([config.seed, 1]).permutation(len(items))[:count]
    return items[np.sort(drawn)]


def _held_out(events: pl.DataFrame, config: SplitConfig, drawn: np.random.Generator) -> pl.Series:
    """The part of the events that are drawn for test and validation with `random`; null otherwise.

    Of each user with three or more positive events, one is drawn for each of both parts.
    """
    held = pl.Series("__held", [None], dtype=PART).new_from_index(0, events.height)
    if config.by == "random":
        numbers = pl.Series("__drawn", drawn.random(events.height))
        order = events.select("group", _WARM_POSITIVE.alias("__can"), numbers)
        place = pl.col("__drawn").rank("ordinal").over("group", "__can")
        enough = pl.col("__can") & (pl.col("__can").sum().over("group") >= 3)
        place_of = order.select(pl.when(enough).then(place).otherwise(0))["__drawn"].to_numpy()
        names = pl.Series("__held", [None, "test", "validation"], dtype=PART)
        held = names.gather(np.where(place_of <= 2, place_of, 0))
    return held


def _with_parts(
    events: pl.DataFrame, test: pl.Expr, validation: pl.Expr, ends: dict[str, pl.Expr]
) -> pl.DataFrame:
    """Events with `__part`, and with `__end`, the length of their history.

    Args:
        test: whether an event is in test; null counts as false.
        validation: whether an event that is not in test is in validation; null counts as false.
        ends: part -> length of its records' histories; cold records use that of train.
    """
    tested, validated = (test.fill_null(False), validation.fill_null(False))
    part = pl.when(tested).then(pl.lit("test", PART)).when(validated).then(pl.lit("validation", PART))
    end = pl.when("__cold").then(ends["train"]).when(tested).then(ends["test"])
    end = end.when(validated).then(ends["validation"])
    return events.with_columns(
        part.otherwise(pl.lit("train", PART)).alias("__part"), end.otherwise(ends["train"]).alias("__end")
    )


def _events_by_user(events: pl.DataFrame, _: SplitConfig, part_of: pl.DataFrame) -> pl.DataFrame:
    divided = events.join(part_of, on="group", how="left", maintain_order="left")
    return divided.with_columns(_POSITION.alias("__end"))


def _history_length() -> pl.Expr:
    """Length of the user's whole history."""
    return pl.col("__in_history").sum().cast(pl.Int64).over("group")


def _place() -> pl.Expr:
    """The position of a positive event; of a negative one, that of the positive before it."""
    return _POSITION - (~pl.col("__in_history")).cast(pl.Int64)


def _events_by_last(events: pl.DataFrame, config: SplitConfig) -> pl.DataFrame:
    count, place = _history_length(), _place()
    enough = count >= 3
    return _with_parts(
        events,
        enough & (place >= count - 1),
        enough & (place == count - 2),
        {"test": count - 1, "validation": count - 2, "train": _POSITION},
    )


def _events_at_random(events: pl.DataFrame, config: SplitConfig) -> pl.DataFrame:
    held, count = pl.col("__held"), _history_length()
    ends = {"test": count, "validation": count, "train": _POSITION}
    return _with_parts(events, held == "test", held == "validation", ends)


def _events_by_last_session(events: pl.DataFrame, config: SplitConfig) -> pl.DataFrame:
    """Sessions are ordered by their first event; only those with a positive event are tested on."""
    session = ["group", "session"]
    placed = events.with_row_index("__row").with_columns(
        pl.col("__row").cast(pl.Int64).min().over(session).alias("__begins"),
        _POSITION.min().over(session).alias("__before"),
        pl.col("__negatives_before").min().over(session).alias("__rejected"),
        pl.col("__in_history").any().over(session).alias("__positive"),
    )
    begins, before, positive = pl.col("__begins"), pl.col("__before"), pl.col("__positive")
    placed = placed.with_columns(_latest(positive, begins).alias("__last"))
    placed = placed.with_columns(_latest(positive & (begins < pl.col("__last")), begins).alias("__previous"))
    enough = before >= config.min_history
    test = enough & (begins == pl.col("__last"))
    validation = enough & (begins == pl.col("__previous"))
    is_test, is_validation = begins >= _latest(test, begins), begins >= _latest(validation, begins)
    rejected = pl.col("__rejected")
    at_test = pl.when("__cold").then(rejected).when(is_test).then(_latest(test, rejected))
    negative_end = at_test.when(is_validation).then(_latest(validation, rejected)).otherwise(rejected)
    return _with_parts(
        placed,
        is_test,
        is_validation,
        {"test": _latest(test, before), "validation": _latest(validation, before), "train": before},
    ).with_columns(negative_end.alias("negative_end"))


def _latest(condition: pl.Expr, value: pl.Expr) -> pl.Expr:
    """The largest of a user's values where the condition is true; null where it never is."""
    return pl.when(condition).then(value).max().over("group")


def _events_by_time(events: pl.DataFrame, config: SplitConfig, cuts: tuple[float, float]) -> pl.DataFrame:
    """Events at the same time are always in the same part."""
    test, validation = cuts
    time = pl.col("time")

    def before(cut: float, which: str) -> pl.Expr:
        return (pl.col(which) & (time < cut)).sum().cast(pl.Int64).over("group")

    is_test, is_validation = time >= test, time >= validation
    negatives = pl.col("__negatives_before")
    if config.history == "event":
        earlier_events = _POSITION.min().over("group", "time")
        ends = dict.fromkeys(PARTS, earlier_events)
        ends_of_negatives = negatives.min().over("group", "time")
    else:
        ends = {
            "test": before(test, "__in_history"),
            "validation": before(validation, "__in_history"),
            "train": _POSITION,
        }
        begin = pl.col("negative_begin")
        cut = pl.when(is_test).then(before(test, "__negative")).otherwise(before(validation, "__negative"))
        is_cut = is_validation & ~pl.col("__cold")
        ends_of_negatives = pl.when(is_cut).then(begin + cut).otherwise(negatives)
    placed = _with_parts(events, is_test, is_validation, ends)
    return placed.with_columns(ends_of_negatives.alias("negative_end"))
