"""Inner products as the scores that a bundle shows."""

import numpy as np

from twinspire.protos.bundle import Score
from twinspire.serving.index.vector_index import shown_scores

PRODUCTS = np.array([[1e30, 88, 1.5, 0], [-1.5, -88, -800, -1e30]], np.float32)


def test_a_sigmoid_never_overflows() -> None:
    found = shown_scores(PRODUCTS, Score("sigmoid"))
    assert found.dtype == np.float32
    expected = [[1, 1, 0.8175745, 0.5], [0.18242552, 6.054602e-39, 0, 0]]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-44)
