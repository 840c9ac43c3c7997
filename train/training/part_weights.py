"""The weight of a part of the towers' coordinates beside all others, chosen on validation.

    chosen = WeightCurves(trainer, "mixture", "ndcg_at_10").choice("EASE", {"decay": 0.9})
    chosen.apply(trainer)

A part is a `Mixture` of both towers: coordinates that training leaves out, such as those of a linear model.
An inner product of the whole vectors is the weighted sum of the part's scores and of all others. Weights from
0, the other coordinates alone, to 16 are measured, in units of standard deviation, and the part alone
(infinity), which is only shown.

Of the weights that are within a standard error of the best, the one nearest to a default weight is taken
(after Breiman et al. 1984, section 3.4.3, who prune trees so): the curve is flat around its top, and where in
the flat part the highest point lies is luck. The fewer users validation has, the more weights are close, and
the nearer the choice is to the default. The error is that of users, whose queries resemble each other. The
metric is nDCG over 100 places, which varies less from user to user than one over ten. A weight at which the
metric that selects the epoch is no higher than without the part is not taken.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twinspire.train.evaluation.exact_search import mask_seen
from twinspire.train.evaluation.intervals import Clusters, clusters_of, within_standard_error
from twinspire.train.metrics import CUTOFFS, Floats, ndcg, per_query
from twinspire.train.models.towers import Mixture, Part, Tower
from twinspire.train.training.trainer import Trainer

Rows = npt.NDArray[np.int64]
Curve = Mapping[float, npt.NDArray[np.float64]]  # weight -> a metric of each user

# Of a part's scores, once they and the others have the same standard deviation. Infinity, the part alone, is
# measured only to be shown.
WEIGHTS = (0.0, *(2.0 ** (n / 2) for n in range(-8, 9)), math.inf)
MIN_USERS = 10  # of validation; with fewer the default weight is taken
# Validation queries that are read, drawn with a seed: as many as give MAX_SCORES scores, within bounds.
MIN_QUERIES, MAX_QUERIES, MAX_SCORES = 500, 5_000, 100_000_000
_BLOCK = 512  # queries at a time


def choose_weight(curve: Curve, selected: Curve, default: float = 1.0) -> float:
    """Of the weights that are within a standard error of the best, the one nearest to `default`.

    No weight is taken at which the mean of `selected` is not above that at 0.

    Args:
        curve: weight -> a metric of each user, that chooses.
        selected: weight -> the metric of each user that selects the epoch.
        default: above 0; it is taken as it is where there are too few users to choose by.

    Returns:
        The weight; 0 if none is left.
    """
    users = Clusters.single(len(curve[0.0]), "users")
    if len(users) < MIN_USERS:
        return default
    without = selected[0.0].mean()
    close = [each for each in within_standard_error(curve, users) if selected[each].mean() > without]
    return min(close, key=lambda weight: abs(math.log(weight / default)), default=0.0)


def part_of(tower: Tower, part: Part) -> Mixture:
    """The layer that adds the coordinates of a part, which the tower has."""
    found: Mixture | None = getattr(tower, part)
    assert found is not None
    return found


@dataclass(frozen=True)
class ChosenPart:
    """What validation has chosen for a part of the towers' coordinates.

    Args:
        label: what the coordinates are, such as EASE.
        weight: of the part's scores, once they have the standard deviation of all others. It is 0 if these
            are better alone; the towers then lose the part.
        unit: the standard deviation of the others' scores, divided by that of the part's.
        metric: that is shown.
        alone: the metric of the part alone on validation.
        before: that of the towers without the part.
        after: that of both together.
        users: number of validation users that chose.
        settings: of the part, by name.
    """

    part: Part
    label: str
    weight: float
    unit: float
    metric: str
    alone: float
    before: float
    after: float
    users: int
    settings: Mapping[str, Any]

    def apply(self, trainer: Trainer) -> None:
        """Set the weight of the part whose coordinates the towers hold, or take these away.

        Weight and unit also stay for other towers of the same experiment: those that have learned the
        validation queries have scores whose spread says little about other queries.
        """
        if self.weight:
            PartWeighting(trainer, self.part).apply(self.weight, self.unit)
            return
        for tower in trainer.towers:
            tower.remove(self.part)
        trainer.clear_cached_vectors()
        trainer.item_vectors()  # which fits the radius of the inner product

    def line(self) -> str:
        """The choice in words."""
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        chosen = f"weighs {self.weight:.2g} times all else" if self.weight else "is left out"
        return (
            f"{self.label} ({settings}) {chosen}, in units of standard deviation; {self.metric} on "
            f"validation {self.after:.4f}, without it {self.before:.4f}, alone {self.alone:.4f}; "
            f"{self.users:,} users"
        )

    def parameters(self) -> dict[str, Any]:
        """What a run logs as parameters; `weight` counts standard deviations of either score."""
        return {"model": self.label, "weight": self.weight, **self.settings}

    def metrics(self) -> dict[str, float]:
        """What a run logs as metrics of validation: means of `metric` over the users, 0 to 1."""
        named = {"": self.after, "_alone": self.alone, "_without": self.before}
        return {f"{self.part}{name}_{self.metric}": value for name, value in named.items()}


class PartWeighting:
    """Sets the weight of a part of the coordinates that the towers hold now.

    Args:
        trainer: with the towers, whose score is an inner product.

    Attributes:
        queries: int64 (Q,), rows of the validation queries that are read.
    """

    def __init__(self, trainer: Trainer, part: Part) -> None:
        self._trainer, self._part = trainer, part
        self._begin = sum(each.width for each in trainer.towers[0].parts_before(part))
        self._end = self._begin + part_of(trainer.towers[0], part).width
        queries, relevant = trainer.data.parts["validation"].by_query()
        most = max(MIN_QUERIES, min(MAX_QUERIES, MAX_SCORES // trainer.data.item_count))
        drawn = np.sort(np.random.default_rng(0).permutation(len(queries))[:most])
        self.queries, self._relevant = queries[drawn], [relevant[n] for n in drawn]
        self._users = clusters_of(trainer.data, "validation")[drawn].of
        self._set((1.0, 1.0), (1.0, 1.0))
        items, vectors = trainer.item_vectors(), trainer.query_vectors(self.queries)
        self._items, self._vectors = self._divided(items), self._divided(vectors)

    def apply(self, weight: float, unit: float) -> None:
        """Set the weights of both towers.

        The product of both sides is what counts for scores. For the graph of the index, which compares
        items with each other, each part is as large beside the other on the items' side as on the queries'.

        Args:
            weight: of the part's scores, in units of standard deviation.
            unit: the standard deviation of the others' scores, divided by that of the part's.
        """
        own, others = _weights(weight * unit)
        scale = 1.0
        if own and others:
            (query_own, query_others), (item_own, item_others) = (
                [float(each.norm(dim=1).mean()) for each in divided]
                for divided in (self._vectors, self._items)
            )
            scale = (own * query_own * item_others / max(1e-12, item_own * query_others)) ** 0.5
        self._set((own / (scale or 1.0), others), (scale if own else 0.0, others))
        self._trainer.item_vectors()  # which fits the radius of the inner product

    def _set(self, query: tuple[float, float], item: tuple[float, float]) -> None:
        for tower, weights in zip(self._trainer.towers, (query, item), strict=True):
            part_of(tower, self._part).set_weights(*weights)
        self._trainer.clear_cached_vectors()

    def _divided(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """The coordinates of the part and all others, without the last one, which fills up the length."""
        others = torch.cat([vectors[:, : self._begin], vectors[:, self._end : -1]], dim=1)
        return vectors[:, self._begin : self._end].contiguous(), others


class WeightCurves(PartWeighting):
    """The quality of all weights on validation, for the part that the towers hold now.

    Args:
        metric: of the ranking, that selects the epoch.

    Attributes:
        unit: the standard deviation over the items of the others' scores, divided by that of the part's.
        values: weight -> nDCG@100 of each user: the mean over the user's queries.
        shown: weight -> `metric` of each user, likewise.
    """

    def __init__(self, trainer: Trainer, part: Part, metric: str, default: float = 1.0) -> None:
        super().__init__(trainer, part)
        self._metric, self._default = metric, default
        self._measure()

    def with_coordinates(self, queries: Tensor, items: Tensor) -> "WeightCurves":
        """The curves of other coordinates of the part beside the same others.

        The towers do not encode queries and items again, which takes longest where attention reads histories.

        Args:
            queries: (Q, K), of the attribute `queries`, without their weight.
            items: (N, K), likewise.
        """
        radius = self._trainer.towers[0].head.radius  # by which the others are multiplied and divided
        assert isinstance(radius, Tensor)
        found = copy.copy(self)
        found._vectors, found._items = (queries * radius, self._vectors[1]), (items / radius, self._items[1])
        found._measure()
        return found

    def _measure(self) -> None:
        """Set `unit`, `values` and `shown`."""
        self.unit = self._ratio()
        ranked = self._ranked(self._trainer.data.seen(self.queries))
        users = self._users
        self.values, self.shown = dict[float, Floats](), dict[float, Floats]()
        for weight, rows in ranked.items():
            figures = ndcg(rows, self._relevant), per_query(rows, self._relevant)[self._metric]
            self.values[weight], self.shown[weight] = (
                np.bincount(users, each) / np.bincount(users) for each in figures
            )

    @property
    def chosen(self) -> float:
        """The weight that is taken."""
        finite = {weight: each for weight, each in self.values.items() if weight < math.inf}
        return choose_weight(finite, self.shown, self._default)

    def choice(self, label: str, settings: Mapping[str, Any]) -> ChosenPart:
        """What is taken.

        Args:
            label: what the coordinates are.
            settings: of the part, by name.
        """
        alone, before, after = (float(self.shown[each].mean()) for each in (math.inf, 0.0, self.chosen))
        users = len(self.values[0.0])
        found = (self.chosen, self.unit, self._metric, alone, before, after, users)
        return ChosenPart(self._part, label, *found, settings)

    @property
    def quality(self) -> float:
        """The mean over users of nDCG@100 at that weight."""
        return float(self.values[self.chosen].mean())

    def _ratio(self) -> float:
        """The unit; 1 if the others' scores do not vary: then any weight ranks as the part does."""
        own, others = (
            float((vectors[:1000] @ items.T).std(dim=1).mean())
            for vectors, items in zip(self._vectors, self._items, strict=True)
        )
        return others / max(1e-12, own) or 1.0

    def _ranked(self, seen: list[Rows]) -> dict[float, Rows]:
        """Weight -> (Q, K) item rows, best first; the scores of both parts are computed once."""
        k = min(max(CUTOFFS), len(self._items[0]))
        found: dict[float, list[Tensor]] = {weight: [] for weight in WEIGHTS}
        for at in range(0, len(self.queries), _BLOCK):
            own, others = (
                vectors[at : at + _BLOCK] @ items.T
                for vectors, items in zip(self._vectors, self._items, strict=True)
            )
            for weight, blocks in found.items():
                factor, other_factor = _weights(weight * self.unit)
                scores = factor * own + other_factor * others
                mask_seen(scores, seen[at : at + _BLOCK])
                best = torch.topk(scores, k, dim=1)
                blocks.append(best.indices.masked_fill(best.values.isneginf(), -1))
        return {weight: torch.cat(blocks).cpu().numpy() for weight, blocks in found.items()}


def _weights(weight: float) -> tuple[float, float]:
    """Weights of the part and of the others."""
    return (1.0, 0.0) if math.isinf(weight) else (weight, 1.0)
