"""Analyser, k1 and b are those that validation prefers, and the default ones where it is small."""

from collections.abc import Sequence

import numpy as np
import pytest

from twinspire.protos.lexical import DEFAULT_B, DEFAULT_K1, WeightingName
from twinspire.train.evaluation.intervals import Clusters
from twinspire.train.evaluation.lexical_choice import (
    ALL_ANALYZERS,
    LexicalSettings,
    chosen_settings,
)
from twinspire.train.evaluation.lexical_model import CountedTerms

WORDS = ["characters", "english"]


def chosen(
    items: Sequence[str], queries: Sequence[str], kind: WeightingName = "bm25", names: Sequence[str] = WORDS
) -> LexicalSettings:
    """What queries prefer that ask for the item of the same row; each is a cluster."""
    relevant, clusters = [np.array([n]) for n in range(len(queries))], Clusters.single(len(queries))
    terms = {name: CountedTerms(ALL_ANALYZERS[name], items) for name in names}
    return chosen_settings(kind, names, terms.__getitem__, queries, relevant, clusters)


def by_stem(count: int, others: int = 0) -> tuple[list[str], list[str]]:
    """Commands, and queries: `count` hold another form of a command's verb, the others the verb itself."""
    verbs = [f"{'bcdfghjklm'[n // 10]}a{'npqrstvwxz'[n % 10]}lod" for n in range(100)][: count + others]
    items = [f"{verb} --all -x" for verb in verbs]
    queries = [f"{verb}ing" if n < count else f"{verb}" for n, verb in enumerate(verbs)]
    return items, queries


@pytest.mark.parametrize("kind", ["bm25", "tfidf"])
def test_stems_are_chosen_for_commands_whose_queries_want_them(kind: WeightingName) -> None:
    assert chosen(*by_stem(30, 30), kind).analyzer == "english"
    assert chosen(*by_stem(0, 60), kind).analyzer == "characters"


def by_length(long: int, short: int) -> tuple[list[str], list[str]]:
    """A long and a short item with each term, and queries that ask for `long` and `short` ones."""
    filler = " ".join(f"w{n}" for n in range(40))
    asked = [f"t{n} t{n} {filler}" if n < long else f"t{n} x" for n in range(long + short)]
    rest = [f"t{n} x" if n < long else f"t{n} t{n} {filler}" for n in range(long + short)]
    return [*asked, *rest], [f"t{n}" for n in range(long + short)]


def test_a_length_that_tells_nothing_is_found_out() -> None:
    found = chosen(*by_length(50, 5))
    assert found.b < DEFAULT_B
    assert chosen(*by_length(5, 50)).b >= DEFAULT_B


def test_few_queries_leave_the_defaults() -> None:
    """Of nine queries five prefer b = 0, which is chance; the best b by their mean is 0."""
    found = chosen(*by_length(5, 4))
    assert (found.k1, found.b) == (DEFAULT_K1, DEFAULT_B)
    assert chosen(*by_length(0, 0)) == LexicalSettings("characters")
