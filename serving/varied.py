"""Many different queries out of few: one query over and over looks two to four times faster than it is.

What a query touches stays in the processor's caches, and two hundred examples are not enough to fill them.
So queries are put together from the beginning of one example and the end of another.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from protos.bundle import Manifest
from protos.errors import MissingStage
from protos.features import HistoryFeature, TextFeature
from serving.query import Query, example_query

ENOUGH = 4096  # different queries
TRIES = 8  # for each of those; few short examples do not give as many


def made(
    examples: Sequence[Mapping[str, Any]], histories: Sequence[str], texts: Sequence[str], seed: int
) -> list[Query]:
    """Different queries made from the examples of a bundle, in a random order.

    Args:
        examples: feature name -> raw value.
        histories: names of features that are histories.
        texts: names of those that are texts; at least one of either says something in each query, unless
            there are neither: then queries are the examples themselves.
        seed: of what is put together with what.

    Returns:
        `ENOUGH` of them, or fewer where the examples do not give as many.

    Raises:
        MissingStage: there are no examples, or none of them says anything.
    """
    draw = random.Random(seed)
    said = [*histories, *texts] or [*(examples[0] if examples else ())]
    telling = [each for each in examples if any(each.get(name) for name in said)]
    if not telling:
        raise MissingStage(
            "the bundle has no example queries to make others from; a load test takes them with --queries"
        )
    found: dict[str, Query] = {}
    for _ in range(TRIES * ENOUGH):
        first, second = draw.choice(telling), draw.choice(telling)
        values = dict(first)
        for name in texts:
            words = str(first[name] or "").split(), str(second[name] or "").split()
            values[name] = " ".join(_joined(*words, draw))
        for name in histories:
            values[name] = _joined(list(first[name] or ()), list(second[name] or ()), draw)
        if any(values[name] for name in said):
            found.setdefault(repr(values), _query(values, histories, texts))
        if len(found) == ENOUGH:
            break
    return list(found.values())


def _query(values: dict[str, Any], histories: Sequence[str], texts: Sequence[str]) -> Query:
    """As a client would ask it: the only text and the only history need no name."""
    text = values.pop(texts[0]) if len(texts) == 1 else None
    history = values.pop(histories[0]) if len(histories) == 1 else ()
    rest = example_query(values).features
    return Query(text=text or None, history=tuple(history), features=rest)


def of_bundle(manifest: Manifest, seed: int) -> list[Query]:
    """As `made`, of a bundle's manifest.

    Raises:
        MissingStage: it has no examples that say anything.
    """
    specs = manifest.schema.query
    histories = [name for name, spec in specs.items() if isinstance(spec, HistoryFeature)]
    texts = [name for name, spec in specs.items() if isinstance(spec, TextFeature)]
    return made(manifest.examples, histories, texts, seed)


def _joined(first: list[str], second: list[str], draw: random.Random) -> list[str]:
    """The beginning of the first, about half of it, and the end of the second."""
    begin = (len(first) + draw.randrange(2)) // 2
    end = (len(second) + draw.randrange(2)) // 2
    return first[:begin] + second[end:]
