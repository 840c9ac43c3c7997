"""The part of every pair; `train/data/splits/__init__.py` says how it is chosen."""

import polars as pl

from twinspire.protos.errors import DataError
from twinspire.train.config.data import SplitConfig
from twinspire.train.data.partitions import Partitions
from twinspire.train.data.source import BY_RANKING
from twinspire.train.data.splits.draws import split_by_group, split_by_time
from twinspire.train.data.splits.events import split_events
from twinspire.train.data.splits.parts import PART, SHOWN, check_parts, part_sizes

LEAST_OTHERS = 100  # positive pairs of a part beside those that a ranking alone chose to show


def assign_parts(pairs: Partitions, config: SplitConfig, users: pl.Series | None = None) -> Partitions:
    """`pairs` with a column `part`: train, validation or test.

    Pairs with a column `BY_RANKING` may also be `shown`, events of users `cold`. Events get the columns
    `position`, the number of earlier events in the user's history, and `user_start`, the index of the user's
    first item in the history of all users. They also get `begin` and `end`, the range of a record's history
    in the history of all users, and `negative_begin` and `negative_end`, the same of the negative history.

    Args:
        pairs: one partition, or events as `filter_events` returns them.
        users: of events, the ids of users; None of other pairs.

    Raises:
        DataError: a part would be empty, or the pairs lack a column that the split needs.
    """
    _check_columns(pairs, config, users is not None)
    if users is not None:
        divided = split_events(pairs, config, users)
    else:
        parts = split_by_time if config.by == "time" else split_by_group
        divided = pairs.map(lambda all_: all_.with_columns(part=parts(all_, config)))
    if BY_RANKING in divided.columns:
        divided = _without_shown(divided)
    check_parts(divided, config)
    return divided


def _without_shown(divided: Partitions) -> Partitions:
    """Pairs; those of validation and test that `BY_RANKING` marks are `SHOWN`, if enough others remain."""
    marked = pl.col(BY_RANKING)
    sizes = part_sizes(each.filter(~marked) for each in divided.select("part", BY_RANKING, "^label$"))
    if min(sizes.get(part, (0, 0))[1] for part in ("validation", "test")) < LEAST_OTHERS:
        return divided
    is_shown = marked & pl.col("part").is_in(["validation", "test"])
    part = pl.when(is_shown).then(pl.lit(SHOWN, PART)).otherwise("part")
    return divided.map(lambda pairs: pairs.with_columns(part=part))


def _check_columns(pairs: Partitions, config: SplitConfig, of_users: bool) -> None:
    """Refuse a split that needs a column that the pairs lack, or events of users."""
    by = config.by
    if by == "time" and "time" not in pairs.columns:
        raise DataError('split.by = "time" needs data.time, the column of the pairs that holds it')
    if by == "last_session" and "session" not in pairs.columns:
        raise DataError('split.by = "last_session" needs data.session, the column of events that holds it')
    if not of_users and config.history != "cut":
        raise DataError(
            f'split.history = "{config.history}" needs events of users, which have histories: data of kind '
            '"events" or "movielens"'
        )
    if not of_users and (by in ("last", "last_session", "random") or config.cold_items):
        what = "split.cold_items" if config.cold_items else f'split.by = "{by}"'
        raise DataError(f'{what} needs events of users: data of kind "events" or "movielens"')
