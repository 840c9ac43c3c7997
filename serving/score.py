"""Inner products as the scores that a bundle shows."""

import numpy as np
import numpy.typing as npt

from protos.bundle import Score


def is_product(score: Score) -> bool:
    """Whether inner products are shown as they are."""
    return score.kind != "sigmoid"


def shown(products: npt.NDArray[np.float32], score: Score) -> npt.NDArray[np.float32]:
    """Inner products of query and item vectors, any shape, as `score` says; the order stays."""
    if is_product(score):
        return products
    # 1 / (1 + e^-x), in a form that no x makes overflow; in float64, for a bias may be large.
    logits = products.astype(np.float64) + score.bias
    return np.exp(-np.logaddexp(0, -logits)).astype(np.float32)
