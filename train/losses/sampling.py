"""The probability that an item is among the candidates of a step."""

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def mixed_log_q(share: Floats, drawn: int | Rows, uniform: int, catalogue: int) -> npt.NDArray[np.float32]:
    """Log probability that an item of no pair of the query's own window is among the query's candidates.

    Candidates are the distinct items of a batch of pairs and of `uniform` uniform draws from the catalogue
    (Yang et al. 2020, "Mixed Negative Sampling"). The paper subtracts the log probability of one draw from
    the mixture, drawn / (drawn + uniform) share + uniform / (drawn + uniform) / N. Here an item drawn several
    times is one column, so q is the probability that it is drawn at least once:

        q_j = 1 - (1 - share_j)^drawn (1 - 1 / N)^uniform

    For small q this is the paper's probability times drawn + uniform. Division by q makes the expected sum
    over the candidates equal to the sum over the catalogue (importance sampling of the partition function:
    Bengio and Senecal 2008, section IV; for distinct columns Horvitz and Thompson 1952; in-batch: Yi et al.
    2019, "Sampling-Bias-Corrected Neural Modeling", equations 4 and 5).

    The sum is that of one query, so q has to be the probability given this query. The pairs of its own
    window (`Batch.window`), its own pair among them, are in its batch with certainty: they are not drawn,
    their items have q_j = 1, also those that are drawn besides, and the other pairs of the batch are the
    `drawn` ones. With the marginal probability, a user's next items would weigh 1 / q_j instead of 1.

    Args:
        share: (M,), the probability that a pair of a batch has an item, of some items.
        drawn: pairs of the batch outside of the query's window, at least 1: a number, or (G, 1) of G queries.
        uniform: draws from the catalogue, with replacement; 0 for none.
        catalogue: N, the number of items that the uniform draws are from.

    Returns:
        float32 (M,) or (G, M); -inf where an item cannot be a candidate.
    """
    with np.errstate(divide="ignore"):  # an item of share 0 gets log 0
        missed = drawn * np.log1p(-share)
        if uniform:
            missed = missed + uniform * np.log1p(-1 / catalogue)
        log_q: npt.NDArray[np.float32] = np.log(-np.expm1(missed)).astype(np.float32)
    return log_q
