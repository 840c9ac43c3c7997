"""Inputs for a cell of the plan: many different batches, made of real records."""

from collections.abc import Mapping, Sequence
from typing import Any

from export.bench.plan import HISTORY, LONG, SHORT
from protos.features import Arrays, HistoryFeature, TextFeature, TowerInputs, normalise

SHORT_LENGTH = 20  # characters
DIFFERENT = 64  # batches, so that no call finds in the caches what the one before has left

Values = Mapping[str, Sequence[Any]]


def varied(inputs: TowerInputs, values: Values, batch: int) -> list[Arrays]:
    """Up to 64 batches, no two alike.

    Args:
        values: feature name -> raw values of records; where they are fewer than 64 batches take, batches
            begin at different records and have some in common.
    """
    total = len(next(iter(values.values())))
    step = max(1, min(batch, total // DIFFERENT))
    found = []
    for start in range(0, min(total, DIFFERENT * step), step):
        rows = [(start + n) % total for n in range(batch)]
        found.append(inputs.to_arrays({name: [v[r] for r in rows] for name, v in values.items()}))
    return found


def of_kind(inputs: TowerInputs, values: Values, kind: str) -> Values:
    """Real records, their texts or histories brought to the length that a kind of input asks for."""
    changed: dict[str, Sequence[Any]] = dict(values)
    for name, spec in inputs.features.items():
        if isinstance(spec, TextFeature) and kind in (SHORT, LONG):
            length = min(SHORT_LENGTH, spec.max_length) if kind == SHORT else spec.max_length
            changed[name] = texts_of_length([normalise(text) for text in values[name]], length)
        elif isinstance(spec, HistoryFeature) and kind.startswith(HISTORY):
            length = int(kind.removeprefix(HISTORY))
            changed[name] = histories_of_length(values[name], inputs.known(name), length)
    return changed


def texts_of_length(texts: Sequence[str], length: int) -> list[str]:
    """Each text cut to so many characters; one that is shorter goes on with those that follow."""
    found = []
    for start, text in enumerate(texts):
        for n in range(1, length):
            if len(text) >= length:
                break
            text += " " + texts[(start + n) % len(texts)]
        found.append(text[:length].ljust(length))
    return found


def histories_of_length(
    histories: Sequence[Sequence[str] | None], known: Sequence[str], length: int
) -> list[list[str]]:
    """The newest so many items of each history that a tower knows; a shorter one goes on with the next.

    Args:
        known: ids that the tower knows; others would be skipped.
    """
    rows = set(known)
    kept = [[each for each in history or () if each in rows] for history in histories]
    filled = [history for history in kept if history] or [list(known)]
    found = []
    for start, history in enumerate(filled):
        for n in range(1, length):
            if len(history) >= length or not known:
                break
            history = history + filled[(start + n) % len(filled)]
        found.append(history[-length:])
    return [found[n % len(found)] for n in range(len(histories))]
