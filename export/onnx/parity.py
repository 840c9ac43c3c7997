"""Compares torch and ONNX Runtime on real records and on hostile ones."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from twinspire.export.onnx.runtimes import Encode, bounded_batches
from twinspire.protos.errors import GateRefused
from twinspire.protos.features import (
    Arrays,
    CategoryFeature,
    HistoryFeature,
    IdFeature,
    TextFeature,
    TimeFeature,
    TowerInputs,
)
from twinspire.protos.inputs.events import LARGEST_TIME

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
    """Compare both runtimes on real and hostile records in batches of 1, 2 and at most 33.

    Args:
        values: feature name -> raw values of real records.
        tolerance: largest allowed difference in any coordinate of a vector; relative to the length of a
            vector that is longer than 1.

    Returns:
        `max_abs_diff`, `tolerance` and the number of `records` compared.

    Raises:
        GateRefused: a difference is above the tolerance, or a vector is not finite.
    """
    worst, records = 0.0, 0
    for batch in batches(inputs, values):
        found = difference(onnx(batch.arrays), torch(batch.arrays))
        if not found <= tolerance:
            raise GateRefused(
                f"{side} tower: torch and ONNX Runtime differ by {found:.2e} "
                f"(tolerance {tolerance:.0e}) on {batch.records}"
            )
        worst = max(worst, found)
        records += batch.size
    return {"max_abs_diff": worst, "tolerance": tolerance, "records": records}


class ParityBatch(NamedTuple):
    """A batch of records as a tower's inputs.

    Args:
        records: description of the records, for error messages.
        size: B.
        arrays: (B, ...) each.
    """

    records: str
    size: int
    arrays: Arrays


def batches(inputs: TowerInputs, values: Mapping[str, Sequence[Any]]) -> Iterator[ParityBatch]:
    """Ordinary and hostile records in batches of 1, 2 and at most 33 (`bounded_batches`).

    Args:
        values: feature name -> raw values of ordinary records.
    """
    for kind, source in (("ordinary", values), ("hostile", _hostile(inputs))):
        total = len(next(iter(source.values())))
        lengths = np.asarray(inputs.lengths(source, total))
        for size in BATCHES:
            for part in bounded_batches(lengths, size):
                records = {name: column[part] for name, column in source.items()}
                yield ParityBatch(
                    f"{kind} records {part.start} to {part.stop - 1} of {total}",
                    part.stop - part.start,
                    inputs.to_arrays(records),
                )


def difference(found: Any, expected: Any) -> float:
    """The largest difference in any coordinate; relative to the length of vectors longer than 1.

    Args:
        found, expected: float32 (B, D).
    """
    length = np.maximum(1, np.linalg.norm(expected, axis=1, keepdims=True))
    return float((np.abs(found - expected) / length).max())


_TIMES = [None, 0.0, -LARGEST_TIME, LARGEST_TIME, 1e9, 59.0, 60.0]


def _dated(history: Sequence[str] | None) -> list[tuple[str, float | None]]:
    """A history with times in no order, some of them not known."""
    return [(item, _TIMES[n % len(_TIMES)]) for n, item in enumerate(history or ())]


def _hostile(inputs: TowerInputs) -> dict[str, Sequence[Any]]:
    """Hostile texts, with absent and unknown values of the other features."""
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
                known[: 2 * spec.longest],
            ]
            if spec.times:
                histories = [*histories, *map(_dated, histories)]
            hostile[name] = (histories * count)[:count]
        elif isinstance(spec, TimeFeature):
            hostile[name] = (_TIMES * count)[:count]
        else:
            hostile[name] = ([None, 0.0, -1e30, 1e30] * count)[:count]
    return hostile
