"""Inputs of a tower have the requested length, and intervals contain what they estimate."""

import numpy as np

from twinspire.export.benchmark.estimate import Estimate, percentile, ratio
from twinspire.export.benchmark.latency_inputs import (
    AS_IS,
    LONG,
    SHORT,
    distinct_batches,
    histories_of_length,
    texts_of_length,
    with_lengths,
)
from twinspire.protos.features import HistoryFeature, TextFeature, TowerInputs

INPUTS = TowerInputs("query", {"text": TextFeature("text", "query", max_length=64)}, {})
VALUES = {"text": [f"query number {n}" for n in range(100)]}
HISTORIES = TowerInputs("query", {"history": HistoryFeature("history", 50)}, {"items": tuple("abcdef")})


def test_the_interval_of_a_ratio_contains_the_ratio() -> None:
    held, single = 0, 0
    for seed in range(15):
        random = np.random.default_rng(seed)
        drift = random.uniform(1, 3, (10, 1))  # the machine is slower in some turns, for both
        slow, fast = (factor * drift * random.gamma(20, 0.05, (10, 30)) for factor in (600.0, 200.0))
        found = ratio(slow, fast, seed)
        assert found.low <= found.value <= found.high
        held += found.low <= 3 <= found.high
        alone = percentile(slow, 50, seed)
        single += alone.high / alone.low > 1.2
        assert found.high / found.low < 1.5  # the drift cancels
    assert held >= 12
    assert single >= 12  # and shows in a time by itself
    assert found == ratio(slow, fast, seed)


def test_a_ratio_of_medians() -> None:
    two, three = (np.full((5, 4), value) for value in (2.0, 3.0))
    assert ratio(three, two, 0) == Estimate(1.5, 1.5, 1.5)
    assert percentile(two, 99, 0) == Estimate(2.0, 2.0, 2.0)


def test_inputs_have_the_length_of_their_kind() -> None:
    for kind, length in ((SHORT, 20), (LONG, 64)):
        for batch in (1, 8, 256):
            batches = distinct_batches(INPUTS, with_lengths(INPUTS, VALUES, kind), batch)
            assert {each["text"].shape for each in batches} == {(batch, length)}
            assert all((each["text"] > 0).all() for each in batches)
            assert len({each["text"].tobytes() for each in batches}) == len(batches) >= 64
    as_is = distinct_batches(INPUTS, with_lengths(INPUTS, VALUES, AS_IS), 1)
    assert {each["text"].shape[1] for each in as_is} == {14, 15}
    assert texts_of_length(["", "ab", "cdefgh"], 4) == [" ab ", "ab c", "cdef"]
    queries = HISTORIES
    values = {"history": [["a", "x", "b"], [], None, list("cdefab") * 9]}
    for length in (5, 30, 50):
        (found,) = distinct_batches(queries, with_lengths(queries, values, f"history_{length}"), 4)[:1]
        assert found["history"].shape == (4, length)
        assert (found["history"] > 1).all()
    assert histories_of_length([["x"], []], [], 3) == [[], []]
    assert with_lengths(queries, values, SHORT) == values
