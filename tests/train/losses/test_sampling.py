"""The probability that an item is a candidate is how often it is one."""

import numpy as np
import pytest

from twinspire.train.losses.objectives import mixed_log_q

SHARE = np.array([0.4, 0.25, 0.15, 0.1, 0.06, 0.04, 0.0])


@pytest.mark.parametrize(("batch", "uniform"), [(2, 0), (8, 0), (8, 5), (64, 3)])
def test_mixed_log_q_is_the_frequency_of_an_item_among_the_candidates(batch: int, uniform: int) -> None:
    generator = np.random.default_rng(0)
    rounds = 20000
    present = np.zeros((rounds, len(SHARE)), bool)
    others = generator.choice(len(SHARE), size=(rounds, batch - 1), p=SHARE)
    np.put_along_axis(present, others, True, axis=1)
    if uniform:
        np.put_along_axis(present, generator.integers(0, len(SHARE), (rounds, uniform)), True, axis=1)
    found = mixed_log_q(SHARE, batch - 1, uniform, len(SHARE))
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.exp(found), present.mean(axis=0), atol=0.015)


def test_mixed_log_q_stays_exact_for_rare_and_for_certain_items() -> None:
    assert mixed_log_q(np.array([1e-12, 1 - 1e-12]), 1, 0, 2)[0] == pytest.approx(np.log(1e-12))
    assert mixed_log_q(np.array([1.0, 0.0]), 2, 0, 2).tolist() == [0.0, -np.inf]
