"""Batches to time a tower on are distinct, and intervals contain what they estimate."""

import numpy as np

from twinspire.export.benchmark.figures import percentile, ratio
from twinspire.export.benchmark.towers import distinct_batches
from twinspire.protos.features import TextFeature, TowerInputs

INPUTS = TowerInputs("query", {"text": TextFeature("text", "query", max_length=64)}, {})
VALUES = {"text": [f"query number {n}" for n in range(100)]}


def test_the_interval_of_a_ratio_contains_the_ratio() -> None:
    held, single = 0, 0
    for seed in range(15):
        random = np.random.default_rng(seed)
        drift = random.uniform(1, 3, (10, 1))  # the machine is slower in some turns, for both
        slow, fast = (factor * drift * random.gamma(20, 0.05, (10, 30)) for factor in (600.0, 200.0))
        found = ratio(slow, fast)
        assert found.low <= found.mean <= found.high
        held += found.low <= 3 <= found.high
        alone = percentile(slow, 50)
        single += alone.high / alone.low > 1.2
        assert found.high / found.low < 1.5  # the drift cancels
    assert held >= 12
    assert single >= 12  # and shows in a time by itself


def test_batches_are_distinct_and_of_real_records() -> None:
    for batch in (1, 8, 256):
        batches = distinct_batches(INPUTS, VALUES, batch)
        assert {len(each["text"]) for each in batches} == {batch}
        assert len({each["text"].tobytes() for each in batches}) == len(batches) >= 64
    assert {each["text"].shape[1] for each in distinct_batches(INPUTS, VALUES, 1)} == {14, 15}
