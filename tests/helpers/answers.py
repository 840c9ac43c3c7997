"""Answers compared up to rounding: `tests/helpers/scores.py` says what has to be equal.

Tests use `==` on scores and vectors only where equal bits are promised: the same batch, in the same process,
with the same number of threads.
"""

from collections.abc import Iterable
from typing import Any

from tests.helpers.scores import Hits, difference


def hits_of(answer: Any) -> Hits:
    """Ids and scores of an answer, as a client returns it or as a message."""
    return [(hit.id, hit.score) for hit in answer.hits]


def differences(expected: Iterable[Any], found: Iterable[Any]) -> list[str]:
    """What is different in each of some answers that is not the same as the expected one."""
    pairs = enumerate(zip(expected, found, strict=True))
    return [
        f"answer {n}: {text}"
        for n, (one, other) in pairs
        if (text := difference(hits_of(one), hits_of(other)))
    ]
