"""The end of a run whose queries have times: what was popular before a query, with a weight from validation.

    recent = add_recent_popularity(trainer, "ndcg_at_10")      towers with `[tower] recent_popularity` above 0

`train/models/recent_popularity.py` says what the coordinates are. The towers learn without them, and
`part_weights.py` chooses their weight, as that of a linear model. Their form and half-life are those of the
best nDCG@100, each with its weight; a form is taken before the next if one of its half-lives is within a
standard error of the best. (A weight that training learned was too low on `online-retail`, as the query tower
learns from the same events what sells in which month.)
"""

import itertools
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from twinspire.protos.features import FIRST_KNOWN
from twinspire.train.evaluation.intervals import Clusters, within_standard_error
from twinspire.train.models.placement import to_device_of
from twinspire.train.models.recent_popularity import FORMS, EventsByPeriod, Form, PeriodEncoder, Rows
from twinspire.train.models.sequence_encoders import IdEncoder
from twinspire.train.models.towers import Part
from twinspire.train.training.part_weights import ChosenPart, Floats, WeightCurves, part_of
from twinspire.train.training.trainer import Trainer

PART: Part = "recent"  # of the towers' coordinates
HALF_LIVES = (1.0, 2.0, 4.0, 7.0, 14.0, 30.0, 60.0)  # days
_Kind = tuple[Form, float]  # and half-life
DEFAULT_WEIGHT = 0.25  # with too few users in validation; otherwise the close weight nearest to it is taken


def add_recent_popularity(trainer: Trainer, metric: str) -> ChosenPart | None:
    """Add recent popularity to the towers, and choose form, half-life and weight on validation.

    Towers to which it adds nothing lose their coordinates for it.

    Args:
        trainer: with the towers of the best epoch, and with a linear model where they have one.
        metric: of the ranking, that is shown.

    Returns:
        What was chosen; None if the towers have no coordinates for it.
    """
    if trainer.towers[0].recent is None:
        return None
    events, tried = _events(trainer), dict[_Kind, WeightCurves]()
    first, *others = itertools.product(FORMS, HALF_LIVES)
    _place(events, first, trainer)
    tried[first] = WeightCurves(trainer, PART, metric, DEFAULT_WEIGHT)
    for kind in others:
        _place(events, kind, trainer)
        tried[kind] = tried[first].with_coordinates(*_coordinates(trainer, tried[first].queries))
    form, days = kind = _choose({each: curves.values[curves.chosen] for each, curves in tried.items()})
    chosen = tried[kind].choice("recent popularity", {"form": form, "half_life_days": days})
    _place(events, kind, trainer)
    chosen.apply(trainer)
    return chosen


def add_as_chosen(trainer: Trainer, chosen: ChosenPart | None) -> None:
    """Add recent popularity to other towers of the same experiment, as it was chosen before.

    Args:
        chosen: what `add_recent_popularity` returned.
    """
    if chosen is None:
        return
    if chosen.weight:
        kind = chosen.settings["form"], chosen.settings["half_life_days"]
        _place(_events(trainer), kind, trainer)
    chosen.apply(trainer)


def _choose(values: Mapping[_Kind, Floats]) -> _Kind:
    """The best kind of the first form that has one within a standard error of the best.

    Args:
        values: kind -> nDCG@100 of each user.
    """
    close = within_standard_error(values, Clusters.single(len(next(iter(values.values()))), "users"))
    return max(close, key=lambda kind: (-FORMS.index(kind[0]), values[kind].mean()))


def _events(trainer: Trainer) -> EventsByPeriod:
    """The positive training events, by the rows of the items."""
    data = trainer.data
    train = data.some_pairs
    assert train.time is not None  # as the time of a query needs
    return EventsByPeriod(train.time, train.item, data.item_count)


def _place(events: EventsByPeriod, kind: _Kind, trainer: Trainer) -> None:
    """Set the coordinates of both towers, as yet without their weight."""
    periods, items = (part_of(tower, PART).encoder for tower in trainer.towers)
    assert isinstance(periods, PeriodEncoder)
    assert isinstance(items, IdEncoder)
    rows = _rows_of_items(trainer)[:, 0]
    known = np.flatnonzero(rows >= FIRST_KNOWN)
    of_periods, of_items = events.factors(*kind, periods.table.shape[1])
    with torch.no_grad():
        periods.begins.copy_(torch.from_numpy(events.begins))
        periods.table.copy_(torch.from_numpy(of_periods))
        index = to_device_of(rows[known], items.table)
        items.table[index] = to_device_of(of_items[known].astype(np.float32), items.table)


def _coordinates(trainer: Trainer, queries: Rows) -> tuple[Tensor, Tensor]:
    """Those of some queries (Q, K) and of all items (N, K)."""
    place, feature = trainer.process.place, part_of(trainer.towers[0], PART).feature
    given = (trainer.queries.arrays[feature][queries], _rows_of_items(trainer))
    with torch.inference_mode():
        asked, offered = (
            part_of(tower, PART).encoder(place(torch.from_numpy(rows)))
            for tower, rows in zip(trainer.towers, given, strict=True)
        )
    return asked, offered


def _rows_of_items(trainer: Trainer) -> Rows:
    """int64 (N, 1): the items in the table of the item tower."""
    return trainer.items.arrays[part_of(trainer.towers[1], PART).feature].astype(np.int64)
