"""Exploration: the order of the best items is drawn by chance, with probabilities that are known.

The draw is that of Plackett and Luce (Plackett, The Analysis of Permutations, 1975): the next item is drawn
from those that are left with a probability in proportion to exp(score / temperature). Items in the order of
score / temperature plus a Gumbel variable each are such a draw (Kool et al., Stochastic Beams and Where to
Find Them, 2019, section 2).
"""

from dataclasses import dataclass, field

import numpy as np

from twinspire.serving.retrieval.query import Draw, SearchResult

# Of the default temperature, in spans of the scores drawn from; `serving/RESULTS.md` has what it does.
SPAN_SHARE = 0.1
LEAST_TEMPERATURE = 1e-6  # of scores that are all equal


@dataclass
class Explorer:
    """Draws the order of the best items of answers.

    Args:
        top: best items of which the order is drawn; the others follow by their scores.
        temperature: of the draw; None for `SPAN_SHARE` of the span of the scores drawn from.
        random: by default seeded by the system, so make it after a fork.
    """

    top: int
    temperature: float | None = None
    random: np.random.Generator = field(default_factory=np.random.default_rng)

    def explored(self, found: SearchResult, k: int) -> SearchResult:
        """The first `k` items of a drawn order, with its probabilities; unchanged if there is no choice.

        Args:
            found: the best items by their scores, at least `max(k, top)` of them if there are as many.
        """
        scores = np.asarray(found.scores[: self.top], np.float32).astype(np.float64)  # as logged
        if len(scores) < 2:
            return found.first(k)
        span = float(scores.max() - scores.min())
        temperature = self.temperature or max(SPAN_SHARE * span, LEAST_TEMPERATURE)
        logits = scores / temperature
        drawn = np.argsort(-(logits + self.random.gumbel(size=len(logits))), kind="stable")
        left = np.logaddexp.accumulate(logits[drawn][::-1])[::-1]  # of the items from each on
        propensities = np.exp(logits[drawn] - left)
        draw = Draw(found.rows[: self.top], scores.tolist(), propensities[:k].tolist(), temperature)
        rest = max(0, min(k, len(found.rows)) - len(drawn))
        draw.propensities.extend([1.0] * rest)
        return found.at([*drawn.tolist(), *range(len(drawn), len(drawn) + rest)][:k])._replace(draw=draw)
