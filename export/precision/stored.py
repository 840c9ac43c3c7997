"""The precision in which item vectors lie on the disk: the smallest within the bound."""

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from export.precision.measure import differences, losses
from export.precision.pick import Candidate, fixed, pick
from export.precision.trial import METRICS, Trial, Vectors
from protos.bundle import Precision
from protos.vectors import rounded_vectors
from train.config.precision import PrecisionConfig

PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True)
class StoredVectors:
    """The precision of a bundle's vectors.

    Args:
        report: what was measured of all, and why this one; `together` is what all that was chosen costs.
    """

    precision: Precision
    report: dict[str, Any]


def choose_vectors(
    trial: Trial, queries: Vectors, items: Vectors, filled: bool, config: PrecisionConfig
) -> StoredVectors:
    """Judge the precisions by exact search over vectors as they will be read back.

    Args:
        queries: (Q, D), the trial's queries by the query tower that was chosen.
        items: (N, D), its items by the item tower that was chosen.
        filled: scores are not cosines; see `protos.vectors.rounded_vectors`.
    """
    plain = trial.judge(queries, items)
    asked = config.vectors
    figures, judged, candidates = {}, {}, []
    for precision in PRECISIONS:
        found = rounded_vectors(items, precision, filled)
        judged[precision] = plain if precision == "fp32" else trial.judge(queries, found)
        size = _bytes(precision, items.shape[1])
        told = losses(judged[precision], plain, config.seed)
        figures[precision] = {
            "bytes_per_item": size,
            "size_share": size / _bytes("fp32", items.shape[1]),
            **differences(found, items),
            **told,
        }
        deltas = {metric: told[f"{metric}_delta"] for metric in METRICS}
        candidates.append(Candidate(precision, size, deltas))
    picked = (
        pick(candidates, config.max_loss, "")
        if asked == "auto"
        else fixed(asked, candidates, config.max_loss, "vectors")
    )
    chosen = next(each for each in PRECISIONS if each == picked.name)
    report = {
        "chosen": chosen,
        "why": picked.why,
        "max_loss": config.max_loss,
        "variants": figures,
        "not_chosen": picked.verdicts,
        "judged_on": trial.told(),
        "together": losses(judged[chosen], trial.baseline, config.seed),
    }
    return StoredVectors(chosen, report)


def _bytes(precision: Precision, dimension: int) -> int:
    """Of one row, its scale included."""
    sizes = {"fp32": np.float32, "fp16": np.float16, "int8": np.int8}
    scale = 4 if precision == "int8" else 0
    return dimension * np.dtype(sizes[precision]).itemsize + scale
