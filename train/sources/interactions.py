"""What users did, in order: the part that every source of events shares.

`settle` orders events and drops those that say nothing new; `lay_out` gives each its place in its user's
history. Events come one user after another, each user's in time order, ties in the order of the file:

| column         | what it is                                                                     |
|----------------|--------------------------------------------------------------------------------|
| `group`        | the user's id                                                                  |
| `item_row`     | row of the items                                                               |
| `label`        | Float32; above 0 is a positive, and only positives are history                 |
| `weight`       | Float32                                                                        |
| `time`         | Float64, where there is one                                                    |
| `session`      | String, where there is one                                                     |
| `in_test_file` | Boolean, where a test file was read; what it holds is in no history            |
| `position`     | Int64: how many of the user's history came before                              |
| `user_start`   | Int64: where the user's run begins in the history of all                       |
"""

import polars as pl

SEEN = pl.col("label") > 0
"""Events that a history is made of."""


def settle(
    events: pl.DataFrame, repeats: str = "keep", min_user_events: int = 1
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Events in order without duplicates and short users, and how many went for which reason.

    Args:
        events: in the order of the file, a test file's last.
        repeats: `first` keeps only a user's first event with an item.
        min_user_events: a user with fewer events (a test file's not counted) goes; one whom only the
            test file knows stays.
    """
    dropped: dict[str, int] = {}
    tested = ["in_test_file"] if "in_test_file" in events.columns else []
    timed = ["time"] if "time" in events.columns else []
    ordered = events.sort("group", *tested, *timed, maintain_order=True)
    once = ordered
    if timed:
        once = once.unique(["group", "item_row", "time"], keep="first", maintain_order=True)
        dropped["event of the same user, item and time as another"] = ordered.height - once.height
    first = once
    if repeats == "first":
        first = once.unique(["group", "item_row"], keep="first", maintain_order=True)
        dropped["event with an item that the user had dealt with before"] = once.height - first.height
    known = pl.len() if not tested else (~pl.col("in_test_file")).sum()
    count = known.over("group")
    kept = first.filter((count >= min_user_events) | (count == 0))
    reason = f"event of a user with fewer than {min_user_events} events"
    dropped[reason] = first.height - kept.height
    return kept, {reason: count for reason, count in dropped.items() if count}


def lay_out(events: pl.DataFrame, seen: pl.Expr = SEEN) -> tuple[pl.DataFrame, pl.Series]:
    """Settled events with `position` and `user_start`, and the history of all: UInt32 item rows.

    Args:
        seen: which events a history is made of, apart from those of a test file.
    """
    if "in_test_file" in events.columns:
        seen = seen & ~pl.col("in_test_file")
    marked = events.with_columns(seen.cast(pl.Int64).alias("__seen"))
    before = pl.col("__seen").cum_sum() - pl.col("__seen")
    placed = marked.with_columns(before.over("group").alias("position"), before.alias("__before"))
    placed = placed.with_columns(pl.col("__before").first().over("group").alias("user_start"))
    history = placed.filter(pl.col("__seen") == 1)["item_row"].rename("history")
    return placed.drop("__seen", "__before"), history
