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
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from twinspire.protos.features import FIRST_KNOWN
from twinspire.train.evaluation.intervals import Clusters, within_standard_error
from twinspire.train.models.placement import to_device_of
from twinspire.train.models.recent_popularity import FORMS, EventsByPeriod, Form, PeriodEncoder, Rows
from twinspire.train.models.sequence_encoders import IdEncoder
from twinspire.train.models.towers import Part
from twinspire.train.training.part_weights import Floats, PartWeighting, WeightCurves, part_of, remove_part
from twinspire.train.training.trainer import Trainer

PART: Part = "recent"  # of the towers' coordinates
HALF_LIVES = (1.0, 2.0, 4.0, 7.0, 14.0, 30.0, 60.0)  # days
_Kind = tuple[Form, float]  # and half-life
DEFAULT_WEIGHT = 0.25  # with too few users in validation; otherwise the close weight nearest to it is taken


@dataclass(frozen=True)
class RecentPopularity:
    """What was chosen.

    Args:
        half_life: days in which the weight of an event halves.
        weight: of its scores against all others, once both have the same standard deviation; 0 if the others
            are better alone, and the towers then have no coordinates for it.
        unit: the standard deviation of the others' scores, divided by that of its own.
        metric: that is shown.
        before: the metric on validation without it.
        after: that with it.
        users: number of validation users that chose.
    """

    form: Form
    half_life: float
    weight: float
    unit: float
    metric: str
    before: float
    after: float
    users: int

    def line(self) -> str:
        """The choice in words."""
        chosen = (
            f"weighs {self.weight:.2g} times all else, in units of standard deviation, in the form "
            f'"{self.form}", and the weight of an event halves in {self.half_life:g} days'
            if self.weight
            else "is left out"
        )
        return (
            f"recent popularity {chosen}; {self.metric} on validation {self.after:.4f}, without it "
            f"{self.before:.4f}; {self.users:,} users"
        )

    def parameters(self) -> Mapping[str, Any]:
        """What a run logs as parameters."""
        return {"weight": self.weight, "form": self.form, "half_life_days": self.half_life}

    def metrics(self) -> dict[str, float]:
        """What a run logs as metrics of validation."""
        return {f"mixture_recent_{self.metric}": self.after}


def add_recent_popularity(trainer: Trainer, metric: str) -> RecentPopularity | None:
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
    kind = _choose({each: curves.values[curves.chosen] for each, curves in tried.items()})
    curves = tried[kind]
    weight = curves.chosen
    before, after = (float(curves.shown[each].mean()) for each in (0.0, weight))
    found = RecentPopularity(*kind, weight, curves.unit, metric, before, after, curves.users)
    _place(events, kind, trainer)
    _apply(found, trainer)
    return found


def add_as_chosen(trainer: Trainer, chosen: RecentPopularity | None) -> None:
    """Add recent popularity to other towers, with the form, half-life and weight that were chosen before.

    Args:
        trainer: with other towers of the same experiment.
        chosen: what `add_recent_popularity` returned.
    """
    if chosen is None:
        return
    if chosen.weight:
        _place(_events(trainer), (chosen.form, chosen.half_life), trainer)
    _apply(chosen, trainer)


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
    train = data.parts["train"].positive()
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
    place = trainer.process.place
    given = (trainer.queries.arrays[trainer.towers[0].recent_name][queries], _rows_of_items(trainer))
    with torch.inference_mode():
        asked, offered = (
            part_of(tower, PART).encoder(place(torch.from_numpy(rows)))
            for tower, rows in zip(trainer.towers, given, strict=True)
        )
    return asked, offered


def _rows_of_items(trainer: Trainer) -> Rows:
    """int64 (N, 1): the items in the table of the item tower."""
    return trainer.items.arrays[trainer.towers[1].recent_name].astype(np.int64)


def _apply(chosen: RecentPopularity, trainer: Trainer) -> None:
    if chosen.weight:
        PartWeighting(trainer, PART).apply(chosen.weight, chosen.unit)
    else:
        remove_part(trainer, PART)
