"""Do torch and ONNX Runtime say the same? On real records, and on what someone will send all the same."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from export.backends import Encode
from protos.errors import GateRefused
from protos.features import CategoryFeature, HistoryFeature, IdFeature, TextFeature, TowerInputs

BATCHES = (1, 2, 33)
HOSTILE_TEXTS = (
    "",
    " ",
    "a",
    "\x00",
    "#",
    "...!?",
    "x" * 23,
    "x" * 24,
    "y" * 3000,
    "the " * 200,
    "搜索 引擎 検索エンジン 검색 엔진",
    "محرك بحث עברית",
    "e\u0301 \u200d\u200b ﬁ Ⅷ ß İ",
    "🐍🚀 \U00020000\U000323af\U000e0001",
    "\ud800",
    "ไทย हिन्दी Ελληνικά русский",
)


def check(
    side: str,
    inputs: TowerInputs,
    onnx: Encode,
    torch: Encode,
    values: Mapping[str, Sequence[Any]],
    tolerance: float,
) -> dict[str, Any]:
    """Compare the two on real and hostile records in batches of 1, 2 and 33.

    Args:
        values: feature name -> raw values of real records.
        tolerance: largest allowed difference in any coordinate of a vector of unit length; of a longer
            one, relative to its length.

    Returns:
        `max_abs_diff`, `tolerance` and the number of `records` compared.

    Raises:
        GateRefused: a difference is above the tolerance, or a vector is not finite.
    """
    hostile = _hostile(inputs, values)
    worst, records = 0.0, 0
    for source in (values, hostile):
        total = len(next(iter(source.values())))
        for batch in BATCHES:
            for at in range(0, total, batch):
                arrays = inputs.to_arrays({k: v[at : at + batch] for k, v in source.items()})
                difference = _difference(onnx(arrays), torch(arrays))
                if not difference <= tolerance:
                    raise GateRefused(
                        f"{side} tower: torch and ONNX Runtime differ by {difference:.2e} "
                        f"(tolerance {tolerance:.0e}) on records {at} to {at + batch - 1} of {total}"
                    )
                worst = max(worst, float(difference))
            records += total
    return {"max_abs_diff": worst, "tolerance": tolerance, "records": records}


def _difference(found: Any, expected: Any) -> float:
    """The largest difference in any coordinate, relative to the length of vectors that are longer than 1."""
    length = np.maximum(1, np.linalg.norm(expected, axis=1, keepdims=True))
    return float((np.abs(found - expected) / length).max())


def _hostile(inputs: TowerInputs, values: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
    """Hostile texts beside absent and unknown values of the other features."""
    count = len(HOSTILE_TEXTS)
    hostile: dict[str, Sequence[Any]] = {}
    for name, spec in inputs.features.items():
        if isinstance(spec, TextFeature):
            hostile[name] = HOSTILE_TEXTS
        elif isinstance(spec, CategoryFeature):
            unknown: list[Any] = [["\x00", "\x00"], None] if spec.multi else ["\x00", None]
            hostile[name] = (unknown * count)[:count]
        elif isinstance(spec, IdFeature):
            hostile[name] = (["\x00", None, *inputs.known(name)[:1]] * count)[:count]
        elif isinstance(spec, HistoryFeature):
            known = inputs.known(name)
            histories: list[Any] = [
                [],
                None,
                ["\x00"],
                known[:1],
                known[:1] * 3,
                known[: 2 * spec.max_length],
            ]
            hostile[name] = (histories * count)[:count]
        else:
            hostile[name] = ([None, 0.0, -1e30, 1e30] * count)[:count]
    return hostile
