"""Inputs to time a tower on: many different batches of real records, at given text and history lengths."""

from collections.abc import Mapping, Sequence
from typing import Any

from twinspire.protos.features import Arrays, HistoryFeature, TextFeature, TowerInputs
from twinspire.protos.inputs.events import item_ids
from twinspire.protos.inputs.texts import normalise

AS_IS = "as_is"  # kinds of input: records unchanged
SHORT = "short"  # texts of SHORT_LENGTH characters
LONG = "long"  # texts of the longest length that the tower reads
HISTORY = "history_"  # prefix; histories of the number of items that follows
SHORT_LENGTH = 20  # characters
DISTINCT = 64  # batches, so that a call does not find its inputs in the processor's caches

Values = Mapping[str, Sequence[Any]]


def distinct_batches(inputs: TowerInputs, values: Values, batch: int) -> list[Arrays]:
    """Up to 64 batches, no two of them equal.

    Args:
        values: feature name -> raw values of records. With too few records for 64 batches, the batches
            overlap but start at different records.
        batch: records in each batch.
    """
    total = len(next(iter(values.values())))
    step = max(1, min(batch, total // DISTINCT))
    found = []
    for start in range(0, min(total, DISTINCT * step), step):
        rows = [(start + n) % total for n in range(batch)]
        found.append(inputs.to_arrays({name: [v[r] for r in rows] for name, v in values.items()}))
    return found


def with_lengths(inputs: TowerInputs, values: Values, kind: str) -> Values:
    """The records with texts or histories cut or extended to the length of a kind of input."""
    changed: dict[str, Sequence[Any]] = dict(values)
    for name, spec in inputs.features.items():
        if isinstance(spec, TextFeature) and kind in (SHORT, LONG):
            length = min(SHORT_LENGTH, spec.longest) if kind == SHORT else spec.longest
            changed[name] = texts_of_length([normalise(text) for text in values[name]], length)
        elif isinstance(spec, HistoryFeature) and kind.startswith(HISTORY):
            length = int(kind.removeprefix(HISTORY))
            changed[name] = histories_of_length(values[name], inputs.known(name), length)
    return changed


def texts_of_length(texts: Sequence[str], length: int) -> list[str]:
    """Texts of exactly `length` characters: a longer one is cut, a shorter one continues with the next."""
    found = []
    for start, text in enumerate(texts):
        for n in range(1, length):
            if len(text) >= length:
                break
            text += " " + texts[(start + n) % len(texts)]
        found.append(text[:length].ljust(length))
    return found


def histories_of_length(
    histories: Sequence[Sequence[Any] | None], known: Sequence[str], length: int
) -> list[list[Any]]:
    """The newest `length` known items of each history; a shorter one continues with the next history.

    Args:
        histories: raw values; events keep their times.
        known: ids that the tower knows; it skips all others.
    """
    rows = set(known)
    ids = [item_ids(history or ()) for history in histories]
    kept = [
        [event for item, event in zip(items, history or (), strict=True) if item in rows]
        for items, history in zip(ids, histories, strict=True)
    ]
    filled: list[list[Any]] = [history for history in kept if history] or [list(known)]
    found = []
    for start, history in enumerate(filled):
        for n in range(1, length):
            if len(history) >= length or not known:
                break
            history = history + filled[(start + n) % len(filled)]
        found.append(history[-length:])
    return [found[n % len(found)] for n in range(len(histories))]
