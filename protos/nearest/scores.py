"""What is promised of scores: the same up to rounding.

Float32 sums depend on the order of their terms. That order changes with the size of a batch, the number of
threads and the processor, so bit-identical scores are guaranteed only for the same call in the same
process. Otherwise the guarantee is the same items in the same order, with scores within `SCORE_TOLERANCE`.

The product of two unit vectors is a sum of D terms. Two orders of these terms give sums that differ by at
most 2 * D * 2^-24, which is 6e-5 for D = 512, reached only if all rounding errors have the
same sign. Measured errors are much smaller: the largest against float64 is 1.1e-6, over batches of 1 to 500
queries, D of 32 to 512, 1 and 2 threads and the OpenBLAS kernels of five processors. Two such errors and the
rounding of a tower stay well within the tolerance.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.floating[Any]]

SCORE_TOLERANCE = 1e-5  # absolute; relative to the largest score of an answer if that exceeds 1
LOWEST_SCORE = float(np.finfo(np.float32).min)  # as `min_score` it leaves out no hit

PARTS = ("dense", "lexical", "prior")  # of the score of a hybrid bundle's hit, as `Hit` names them


def least_found(kth: Scores) -> Scores:
    """The least score that counts as found in recall@k, for the score of each k-th best item (Q,): (Q,).

    An item may be another than the k-th best and as good as it, or seem worse by rounding alone.
    """
    least: Scores = kth - SCORE_TOLERANCE * np.maximum(1, np.abs(kth))
    return least
