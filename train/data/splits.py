"""The split of pairs into training, validation and test.

    pairs = assign_parts(tables.pairs, SplitConfig(by="group", seed=0))

Pairs without an order of events:

- `group`: a hash of a group's id and the seed decides its part. So a log that grows does not move a group,
  where groups are many and each is smaller than the share of a part (`_draw_groups`). No group is in two
  parts. `leave_out_known_queries` then removes the texts of test queries from validation and training, and
  those of validation queries from training; the items of these pairs are answers of the query held out.
- `time`: the latest pairs are test, those before them validation. Pairs at the same time are in the same
  part. A query may be in several parts.

Where a query may be in several parts, as in a log of clicks, the metrics of queries that are in training and
of those that are not are reported separately (`train/evaluation/query_groups.py`).

Pairs that are events of users: the model predicts later events from earlier ones. The history of a record is
`history[begin:end]`, a prefix of its user's history. It never contains the record's own event or a later one,
and the history of a validation record never contains an event of test:

| by             | test                    | validation             | history of a record               |
|----------------|-------------------------|------------------------|-----------------------------------|
| `last`         | a user's last positive  | the positive before it | events before it                  |
| `last_session` | a user's last session   | the session before it  | events before its session         |
| `time`         | the latest share of all | the share before that  | events before it; of test and     |
|                |                         |                        | validation, before the part's cut |
| `random`       | one positive, drawn     | another one, drawn     | events before it; of test and     |
|                |                         |                        | validation, all of training       |
| `group`        | whole users             | whole users            | events before it                  |

With `history = "event"`, a split by time gives each record the events that are strictly earlier than its own.

A negative event belongs to the part of its position among the positives: from the first tested positive on,
to test. In test and validation it has the history of the positives, so it does not reveal their items. With
`random`, negative events stay in training.

Validation and test hold no pair that the column `BY_RANKING` marks: a click on what a ranking alone chose to
show. An item that it did not show cannot be right there, so models that rank as it did would win (Yang et al.
2018). Such pairs of theirs have the part `SHOWN`, which nothing learns, and stay in histories. If fewer than
`LEAST_OTHERS` positive pairs were left in one of the two, all stay.

The negative history of a record is `negatives[negative_begin:negative_end]`: the user's negative events
before the record's own, up to the positive that follows its history; in a split by time, up to the same
moment as its history. So both together are the first events of the user, but not with `random`, where a
record of test has later events than its own in its history: features of negative histories are refused there.
"""

import hashlib
import json
import math
from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from twinspire.protos.errors import DataError
from twinspire.protos.inputs.query_words import word_numbers
from twinspire.train.config.data import SplitConfig
from twinspire.train.data.source import BY_RANKING, POSITIVE, add_positions

PARTS = ("train", "validation", "test")
COLD = "cold"
SHOWN = "shown"
PART = pl.Enum(sorted((*PARTS, COLD, SHOWN)))
"""The type of the column `part`."""
LEAST_OTHERS = 100  # positive pairs of a part beside those that a ranking alone chose to show
TOLERANCE = 0.5  # by which the share of a part may differ from that of the configuration, of the latter
REPEATED_QUERIES = 'in a log where queries repeat, name data.time and set split.by = "time", which keeps them'
HASHED_AT_ONCE = 1_000_000  # pairs of the split hash in memory; more where one item has more

_encode = json.JSONEncoder(ensure_ascii=False).encode
_WARM_POSITIVE = POSITIVE & ~pl.col("__cold")
_POSITION = pl.col("position")


def assign_parts(pairs: pl.DataFrame, config: SplitConfig) -> pl.DataFrame:
    """`pairs` with a column `part`: train, validation or test.

    Pairs with a column `BY_RANKING` may also be `shown`, events of users (they have a `position`) `cold`.
    Events get the columns `begin` and `end`, the range of a record's history in the history of all users, and
    `negative_begin` and `negative_end`, the same of the negative history.

    Raises:
        DataError: a part would be empty, or the pairs lack a column that the split needs.
    """
    _check_columns(pairs, config)
    if "position" in pairs.columns:
        divided = _split_events(pairs, config)
    else:
        parts = _pairs_by_time(pairs, config) if config.by == "time" else _pairs_by_group(pairs, config)
        divided = pairs.with_columns(pl.Series("part", parts, dtype=PART))
    if BY_RANKING in divided.columns:
        divided = _without_shown(divided)
    _check_parts(divided, config)
    return divided


def _without_shown(divided: pl.DataFrame) -> pl.DataFrame:
    """Pairs; those of validation and test that `BY_RANKING` marks are `SHOWN`, if enough others remain."""
    held_out, marked = pl.col("part").is_in(["validation", "test"]), pl.col(BY_RANKING)
    others = divided.filter(held_out, ~marked, POSITIVE if "label" in divided.columns else True)
    if min((others["part"] == part).sum() for part in ("validation", "test")) < LEAST_OTHERS:
        return divided
    return divided.with_columns(part=pl.when(held_out & marked).then(pl.lit(SHOWN, PART)).otherwise("part"))


def leave_out_known_queries(
    pairs: pl.DataFrame, config: SplitConfig, texts: Sequence[str], columns: Sequence[str]
) -> tuple[pl.DataFrame, pl.DataFrame | None, dict[str, int]]:
    """The pairs of a split by `group` without those whose query text is also held out, and their answers.

    Test keeps all of its pairs. Validation pairs with the words of a test query are left out, and so are
    training pairs with those of a test or validation query (`word_numbers`). Groups that share a query are
    not put into one part instead: short sentences, such as "Return the name.", link most groups, and a new
    pair could move others.

    Other splits, and those of events of users, are not changed.

    Args:
        pairs: as `assign_parts` returns them.
        columns: of all of its features.

    Returns:
        The pairs; the distinct queries (`columns`) of validation and test, each with the `item_row` of all
        positive pairs, those left out included, of the same words and other features, None of other splits,
        of events and of queries without a text; and part -> number of its pairs with such a query, above 0.

    Raises:
        DataError: a part would be empty.
    """
    if config.by != "group" or "position" in pairs.columns or not texts:
        return pairs, None, {}
    words = words_of(pairs, texts)
    left_out, held_out = np.zeros(pairs.height, bool), (pairs["part"] == "test").to_numpy()
    found = {}
    for part in ("validation", "train"):
        of_part = (pairs["part"] == part).to_numpy()
        repeated = of_part & (words >= 0) & np.isin(words, words[held_out])
        left_out, held_out = left_out | repeated, held_out | of_part
        if repeated.any():
            found[part] = int(repeated.sum())
    numbered = pairs.with_columns(pl.Series("__words", words))
    kept = numbered.filter(~left_out)
    try:
        _check_parts(kept, config)
    except DataError as error:
        raise DataError(
            f"{error}, after {left_out.sum()} pairs were left out whose query is also one of test or "
            f"validation; {REPEATED_QUERIES}"
        ) from None
    answers = _answers(kept, numbered, texts, columns)
    return kept.drop("__words"), answers, found


def words_of(table: pl.DataFrame, texts: Sequence[str]) -> npt.NDArray[np.int64]:
    """`word_numbers` of each row's texts in these columns."""
    return word_numbers(table.select(pl.concat_str(texts, separator="\n", ignore_nulls=True)).to_series())


def _answers(
    kept: pl.DataFrame, every: pl.DataFrame, texts: Sequence[str], columns: Sequence[str]
) -> pl.DataFrame:
    """See `leave_out_known_queries`; of pairs with `__words`, those that are kept and every one."""
    query = dict.fromkeys(columns)
    key = ["__words", *(name for name in query if name not in texts)]
    has_words = pl.col("__words") >= 0
    asked = kept.filter(has_words, pl.col("part") != "train").select("__words", *query).unique()
    every = every.filter(pl.col("part") != SHOWN)
    positive = every.filter(POSITIVE) if "label" in every.columns else every
    items = positive.select(*key, "item_row").unique()
    return asked.join(items, on=key, nulls_equal=True).drop("__words")


def _check_parts(divided: pl.DataFrame, config: SplitConfig) -> None:
    """Refuse a split with an empty part, or with one that holds no positive pair."""
    for part in (*PARTS, COLD) if config.cold_items else PARTS:
        if part not in divided["part"]:
            raise DataError(
                f"the {part} part of the split is empty: {divided.height} pairs in "
                f"{divided['group'].n_unique()} groups are too few for a split by {config.by}"
                f"{_cure(part, config.by)}"
            )
        if "label" in divided.columns and not (divided["label"].filter(divided["part"] == part) > 0).any():
            raise DataError(f"the {part} part of the split holds no positive pair")


def _cure(part: str, by: str) -> str:
    """What to change where a part is empty."""
    if part == COLD or by not in ("group", "time"):
        return ""
    finer = "name a finer data.group" if by == "group" else "use finer times: equal ones are in one part"
    which = "smaller split.test and split.validation" if part == "train" else f"a larger split.{part}"
    return f"; set {which}, or {finer}"


def unusual_shares(divided: pl.DataFrame, config: SplitConfig) -> list[str]:
    """A sentence for each part whose share of the pairs is not 0.5 to 1.5 times that of the configuration.

    Args:
        divided: as `assign_parts` returns them.
    """
    if config.by not in ("group", "time") or SHOWN in divided["part"]:
        return []
    warm = divided.filter(pl.col("part") != COLD)
    why = "groups are few or large" if config.by == "group" else "many pairs have the same time"
    found = []
    for part, asked in (("test", config.test), ("validation", config.validation)):
        share = warm.filter(pl.col("part") == part).height / warm.height
        if not (1 - TOLERANCE) * asked <= share <= (1 + TOLERANCE) * asked:
            found.append(f"{part} holds {share:.0%} of the pairs, split.{part} asks for {asked:.0%}: {why}")
    return found


def known_events(events: pl.DataFrame, by: str) -> pl.DataFrame:
    """The events that are in a history or in a negative history, in order."""
    held_out = ["test", "validation", SHOWN] if by == "random" else []
    return events.filter(~pl.col("part").is_in([COLD, *held_out]))


def split_hash(pairs: pl.DataFrame, item_ids: pl.Series, query_columns: Collection[str]) -> str:
    """sha256 over (part, item id, query) of every pair; the order of the rows does not matter.

    It is the hash of the sorted lines of JSON, one for each pair. Memory holds those of some items at a time.

    Args:
        query_columns: columns that identify a query; of events, `group` and `position`, so the hash depends
            on the order of a user's events.
    """
    digest, separator = hashlib.sha256(), ""
    ids = pl.Series([_encode(each) for each in item_ids], dtype=pl.String)
    places = (ids.rank("ordinal") - 1).gather(pairs["item_row"])
    for part in sorted(pairs["part"].unique()):
        of_part = pairs["part"] == part
        counts = np.bincount(places.filter(of_part).to_numpy(), minlength=len(ids))
        slices = (np.cumsum(counts) - counts) // HASHED_AT_ONCE  # of each item, in the order of the ids
        for number in np.unique(slices[counts > 0]):
            begin, end = np.searchsorted(slices, [number, number + 1])
            rows = pairs.filter(of_part & places.is_between(begin, end, "left"))
            columns = [ids.gather(rows["item_row"]), *(_json(rows[name]) for name in sorted(query_columns))]
            lines = pl.concat_str(pl.lit(f"[{_encode(part)}"), *columns, separator=", ") + "]"
            text = pl.select(lines.alias("line"))["line"].sort().str.join("\n").item()
            digest.update((separator + text).encode())
            separator = "\n"
    return digest.hexdigest()


def _json(values: pl.Series) -> pl.Series:
    """Each value as JSON."""
    if values.dtype.is_integer():
        return values.cast(pl.String).fill_null("null")
    return pl.Series([_encode(each) for each in values.to_list()], dtype=pl.String)


def _check_columns(pairs: pl.DataFrame, config: SplitConfig) -> None:
    """Refuse a split that needs a column that the pairs lack."""
    by = config.by
    if by == "time" and "time" not in pairs.columns:
        raise DataError('split.by = "time" needs data.time, the column of the pairs that holds it')
    if by == "last_session" and "session" not in pairs.columns:
        raise DataError('split.by = "last_session" needs data.session, the column of events that holds it')
    if "position" not in pairs.columns and config.history != "cut":
        raise DataError(
            f'split.history = "{config.history}" needs events of users, which have histories: data of kind '
            '"events" or "movielens"'
        )
    if "position" not in pairs.columns and (by in ("last", "last_session", "random") or config.cold_items):
        what = "split.cold_items" if config.cold_items else f'split.by = "{by}"'
        raise DataError(f'{what} needs events of users: data of kind "events" or "movielens"')


def _pairs_by_group(pairs: pl.DataFrame, config: SplitConfig) -> list[str]:
    """The part of every pair."""
    # Test leaves at least two groups, validation at least one: for the parts that are drawn later.
    return _draw_groups(pairs, (("test", config.test, 2), ("validation", config.validation, 1)), config.seed)


def _pairs_by_time(pairs: pl.DataFrame, config: SplitConfig) -> list[str]:
    """The part of every pair."""
    test, validation = _cuts(pairs["time"], config)
    return ["test" if at >= test else "validation" if at >= validation else "train" for at in pairs["time"]]


def _cuts(times: pl.Series, config: SplitConfig) -> tuple[float, float]:
    """The times from which on pairs are in test, and in validation; equal times are in one part."""
    if times.is_empty():
        return math.inf, math.inf
    times = times.sort()
    test = times[max(0, len(times) - max(1, round(config.test * len(times))))]
    earlier = times.filter(times < test)
    size = max(1, round(config.validation * len(times)))
    return test, earlier[max(0, len(earlier) - size)] if len(earlier) else test


def _draw_groups(pairs: pl.DataFrame, shares: Sequence[tuple[str, float, int]], seed: int) -> list[str]:
    """The part of every pair, by a hash of its group.

    The hash of a group is a place between 0 and 1, and each part takes the groups of a range that is as long
    as its share. Three rules hold for few or large groups. A group that is larger than the share is in
    training. A group with which the part would hold more than 1.5 times its share is left out of it. Where
    the groups of a range hold less than half of the share, the next ones by their place are added; if no
    group is small enough, the smallest one. A log that grows moves no group to which none of these applies.

    Args:
        shares: name of a part, its share of the pairs, and the number of groups that must remain after it.
    """
    sizes: dict[str, int] = dict(pairs.group_by("group").len().iter_rows())
    places = {group: _hashed_place(group, seed) for group in sizes}
    part_of: dict[str, str] = {}
    begin = 0.0
    for part, share, remaining in shares:
        left = [group for group in sizes if group not in part_of]
        room, size, filled = len(left) - remaining, share * pairs.height, 0
        for group in sorted(left, key=lambda each: ((places[each] - begin) % 1, each)):
            is_in_range = begin <= places[group] < begin + share
            fits = sizes[group] <= size and filled + sizes[group] <= (1 + TOLERANCE) * size
            if room > 0 and fits and (is_in_range or filled < (1 - TOLERANCE) * size):
                part_of[group] = part
                room, filled = room - 1, filled + sizes[group]
        if not filled and room > 0:
            part_of[min(left, key=lambda each: (sizes[each], each))] = part
        begin += share
    return [part_of.get(group, "train") for group in pairs["group"]]


def _hashed_place(group: str, seed: int) -> float:
    """A number from 0 to 1 that is the same on every machine."""
    digest = hashlib.sha256(f"{seed} {group}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


def _split_events(events: pl.DataFrame, config: SplitConfig) -> pl.DataFrame:
    """Events with `part`, `begin` and `end`, which do not count cold items.

    Args:
        events: with `position` and `user_start`, see `train.data.source`.
    """
    columns = events.columns
    events = events.with_columns(_is_cold(events, config))
    events = events.with_columns(_held_out(events, config))
    in_history = _WARM_POSITIVE & pl.col("__held").is_null()
    warm, _ = add_positions(events, in_history)
    warm = warm.with_columns(
        in_history.alias("__in_history"), (~POSITIVE & ~pl.col("__cold")).alias("__negative")
    )
    before = (pl.col("__negative").cum_sum() - pl.col("__negative")).cast(pl.Int64)
    warm = warm.with_columns(before.alias("__negatives_before"))
    first = pl.col("__negatives_before").min().over("group")
    warm = warm.with_columns(first.alias("negative_begin"))
    split_functions = {
        "last": _events_by_last,
        "last_session": _events_by_last_session,
        "time": _events_by_time,
        "random": _events_at_random,
        "group": _events_by_user,
    }
    start = pl.col("user_start")
    placed = split_functions[config.by](warm, config)
    if "negative_end" not in placed.columns:
        placed = placed.with_columns(_negative_end(placed))
    return placed.select(
        *columns,
        pl.when("__cold").then(pl.lit(COLD, PART)).otherwise(pl.col("__part")).alias("part"),
        start.alias("begin"),
        (start + pl.col("__end")).cast(pl.Int64).alias("end"),
        "negative_begin",
        "negative_end",
    )


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


def _is_cold(events: pl.DataFrame, config: SplitConfig) -> pl.Series:
    """Whether an event's item is one of those that are kept out of training."""
    items = events["item_row"].unique().sort()
    count = max(1, round(config.cold_items * len(items))) if config.cold_items else 0
    # A random stream of its own, so that the same groups are drawn with and without cold items.
    drawn = np.random.default_rng([config.seed, 1]).permutation(len(items))[:count]
    return events["item_row"].is_in(items[np.sort(drawn)].implode()).alias("__cold")


def _held_out(events: pl.DataFrame, config: SplitConfig) -> pl.Series:
    """The part of the events that are drawn for test and validation with `random`; null otherwise.

    Of each user with three or more positive events, one is drawn for each of both parts.
    """
    held = pl.Series("__held", [None], dtype=PART).new_from_index(0, events.height)
    if config.by == "random":
        drawn = np.random.default_rng([config.seed, 2]).random(events.height)
        order = events.select("group", _WARM_POSITIVE.alias("__can"), pl.Series("__drawn", drawn))
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


def _events_by_user(events: pl.DataFrame, config: SplitConfig) -> pl.DataFrame:
    part = pl.Series("__part", _pairs_by_group(events, config), dtype=PART)
    return events.with_columns(part, _POSITION.alias("__end"))


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


def _events_by_time(events: pl.DataFrame, config: SplitConfig) -> pl.DataFrame:
    """Events at the same time are always in the same part."""
    test, validation = _cuts(events.filter(~pl.col("__cold"))["time"], config)
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
