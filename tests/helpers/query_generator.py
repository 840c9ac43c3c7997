"""Many different queries from the few examples of a bundle.

A query that repeats looks two to four times faster than it is, because all it touches stays in the
processor's caches. Two hundred examples are too few to fill them, so each query joins the beginning of one
example with the end of another.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from twinspire.protos.bundle import Manifest
from twinspire.protos.errors import MissingStage
from twinspire.protos.features import HistoryFeature, TextFeature
from twinspire.serving.retrieval.query import Query, example_query

MAX_QUERIES = 4096  # different ones
TRIES = 8  # draws per query; few short examples give fewer different queries


def generate(
    examples: Sequence[Mapping[str, Any]],
    histories: Sequence[str],
    texts: Sequence[str],
    seed: int,
    max_queries: int = MAX_QUERIES,
) -> list[Query]:
    """Up to `max_queries` different queries in a random order; fewer if the examples do not give as many.

    Args:
        examples: feature name -> raw value; each may lack some features.
        histories, texts: names of the features of these kinds. Each query has a value in one of both, unless
            the model has neither: then the queries are the examples.
    """
    rng = random.Random(seed)
    required = [*histories, *texts] or [name for each in examples for name in each]
    usable = [each for each in examples if any(each.get(name) for name in required)]
    if not usable:
        raise MissingStage(
            "the bundle has no example queries to make others from; a load test takes them with --queries"
        )
    found: dict[str, Query] = {}
    # A draw is the numbers of two examples, and two bits for each value that is joined of both.
    ranges = [len(usable)] * 2 + [2] * 2 * (len(texts) + len(histories))
    possible = math.prod(ranges)
    drawn: set[tuple[int, ...]] = set()  # equal draws give equal queries
    for _ in range(TRIES * max_queries):
        draw = tuple(map(rng.randrange, ranges))
        if draw in drawn:
            continue
        drawn.add(draw)
        first, second, bits = usable[draw[0]], usable[draw[1]], iter(draw[2:])
        values = dict(first)
        for name in texts:
            words = str(first.get(name) or "").split(), str(second.get(name) or "").split()
            values[name] = " ".join(_joined(*words, next(bits), next(bits)))
        for name in histories:
            events = list(first.get(name) or ()), list(second.get(name) or ())
            values[name] = _joined(*events, next(bits), next(bits))
        if any(values.get(name) for name in required) and (key := repr(values)) not in found:
            found[key] = _query(values, histories, texts)
        if len(found) == max_queries or len(drawn) == possible:
            break
    return list(found.values())


def _query(values: dict[str, Any], histories: Sequence[str], texts: Sequence[str]) -> Query:
    """As clients send it: the only text and the only history need no name."""
    text = values.pop(texts[0]) if len(texts) == 1 else None
    asked = example_query(values)  # which takes the history from the features where it has times
    features: dict[str, Any] = dict(asked.features)
    history = features.pop(histories[0], ()) if len(histories) == 1 else ()
    return replace(asked, text=text or None, features=features, history=asked.history or tuple(history))


def of_bundle(manifest: Manifest, seed: int, max_queries: int = MAX_QUERIES) -> list[Query]:
    """As `generate`, from the examples of a bundle."""
    specs = manifest.schema.query
    histories = [name for name, spec in specs.items() if isinstance(spec, HistoryFeature)]
    texts = [name for name, spec in specs.items() if isinstance(spec, TextFeature)]
    return generate(manifest.examples, histories, texts, seed, max_queries)


def _joined(first: list[str], second: list[str], first_bit: int, second_bit: int) -> list[str]:
    """The first half of the first and the second half of the second.

    Args:
        first_bit, second_bit: 1 rounds half an odd length up, 0 rounds it down.
    """
    return first[: (len(first) + first_bit) // 2] + second[(len(second) + second_bit) // 2 :]
