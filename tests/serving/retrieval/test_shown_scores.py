"""Inner products as the scores that a bundle shows."""

import numpy as np
import pytest

from twinspire.protos.bundle import Score
from twinspire.serving.index.vector_index import shown_scores

PRODUCTS = np.array([[1e30, 88, 1.5, 0], [-1.5, -88, -800, -1e30]], np.float32)


@pytest.mark.parametrize("kind", ["cosine", "inner_product"])
def test_a_product_is_shown_unchanged(kind: str) -> None:
    np.testing.assert_array_equal(shown_scores(PRODUCTS, Score(kind, bias=3.0)), PRODUCTS)  # type: ignore[arg-type]


def test_a_sigmoid_never_overflows() -> None:
    found = shown_scores(PRODUCTS, Score("sigmoid"))
    assert found.dtype == np.float32
    expected = [[1, 1, 0.8175745, 0.5], [0.18242552, 6.054602e-39, 0, 0]]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-44)


def test_the_bias_moves_a_sigmoid() -> None:
    (found,) = shown_scores(np.array([2.0], np.float32), Score("sigmoid", bias=-2.0))
    assert found == 0.5
