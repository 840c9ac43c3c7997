"""The value of a challenger's answers, from explored answers of the champion (off-policy evaluation).

Value is the mean number of clicked items in an answer. Both policies are Plackett-Luce over the candidates
of a record, with their own scores at the record's temperature: a policy without chance has no support that
could be weighed. With w_k the challenger's probability of the item at position k, given those before it, by
the champion's, and w_1:k the product up to k:

    list           sum_i w_1:K r_i / sum_i w_1:K, r_i all clicks of an answer (self-normalised IPS;
                   Swaminathan and Joachims 2015). Holds for any users; varies most.
    cascade_dr     doubly robust under the cascade model, in which a click depends on the items up to it
                   (Kiyohara et al. 2022), each weight normalised by its mean:
                   sum_k w_1:k (r_k - Q_k) + w_1:k-1 E[Q_k]. Q is linear, fitted backwards by weighted least
                   squares on the other half of the users, so an error of Q adds variance alone.

An interval draws whole users. The difference to the champion, whose value is the mean of the same records, is
drawn together with it, so what both share cancels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from twinspire.export.served_traffic.served_answers import Click, Record, user_numbers
from twinspire.protos.errors import InvalidInput
from twinspire.train.evaluation.intervals import Clusters

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
LEAST_SAMPLE = 1000.0  # effective records; below, intervals do not hold what they say
LARGEST_GAP = 0.1  # of a mean weight to 1, its expectation where every list of the challenger was possible
RIDGE = 1e-3  # of the regression, as records


@dataclass(frozen=True)
class Explored:
    """R explored answers with K positions and M candidates.

    Args:
        drawn: (R, K), the candidate at each position; -1 for none, and for an item behind the candidates.
        rewards: (R, K), 1 for a clicked item.
        propensities: (R, K), the champion's, as logged; 1 where nothing was drawn.
        champion, challenger: (R, M), logits; -infinity for no candidate.
        users: (R,), numbers from 0 on without gaps.
    """

    drawn: Places
    rewards: Floats
    propensities: Floats
    champion: Floats
    challenger: Floats
    users: Places

    @classmethod
    def of(
        cls, records: Sequence[Record], clicks: Sequence[Click], scores: Sequence[Sequence[float | None]]
    ) -> "Explored":
        """The arrays of records.

        Args:
            scores: of each record's candidates by the challenger; None for an item that it does not hold.

        Raises:
            InvalidInput: propensities of the log do not follow from its scores.
        """
        clicked = {(each.request_id, each.item_id) for each in clicks}
        shown = max(len(each["item_ids"]) for each in records)
        most = max(len(each["candidate_ids"]) for each in records)
        size = len(records)
        drawn, rewards = np.full((size, shown), -1, np.int64), np.zeros((size, shown))
        propensities = np.ones((size, shown))
        logits = np.full((2, size, most), -np.inf)
        for n, (record, own) in enumerate(zip(records, scores, strict=True)):
            places = {item: place for place, item in enumerate(record["candidate_ids"])}
            for position, item in enumerate(record["item_ids"]):
                drawn[n, position] = places.get(item, -1)
                rewards[n, position] = (record["request_id"], item) in clicked
                if item in places:
                    propensities[n, position] = record["propensities"][position]
            for side, values in zip(logits, (record["candidate_scores"], own), strict=True):
                known = [-np.inf if each is None else each for each in values]
                side[n, : len(known)] = np.array(known) / record["temperature"]
        made = cls(drawn, rewards, propensities, logits[0], logits[1], user_numbers(records))
        wrong = np.abs(made.conditional(made.champion) / propensities - 1).max(axis=1) > 0.01
        if wrong.any():
            name = records[int(wrong.argmax())]["request_id"]
            what = "expected the propensities of a Plackett-Luce draw by the logged scores and temperature"
            raise InvalidInput("propensities", f"{what}, got others in {wrong.sum()} records, such as {name}")
        return made

    def conditional(self, logits: Floats) -> Floats:
        """A policy's probability of each drawn item, given those before it, (R, K); 1 where there is none."""
        positions = range(self.drawn.shape[1])
        return np.stack([self._of_drawn(next_item(logits, self.drawn, n), n) for n in positions], axis=1)

    def _of_drawn(self, values: Floats, position: int) -> Floats:
        """What the drawn items have of values (R, M) of all candidates; 1 where none was drawn, (R,)."""
        drawn = self.drawn[:, position]
        found: Floats = np.take_along_axis(values, np.maximum(drawn, 0)[:, None], axis=1)[:, 0]
        return np.where(drawn >= 0, found, 1.0)


def next_item(logits: Floats, drawn: Places, position: int) -> Floats:
    """The probability of each candidate at a position, given the items before it, (R, M).

    The next item is drawn with a probability in proportion to exp(logit), of the items that are left
    (Plackett 1975; Luce 1959).

    Args:
        logits: (R, M); -infinity for no candidate.
        drawn: (R, K), the candidate at each position; -1 for none.
        position: from 0.
    """
    left = logits.copy()
    for before in range(position):
        rows = np.flatnonzero(drawn[:, before] >= 0)
        left[rows, drawn[rows, before]] = -np.inf
    best = left.max(axis=1, keepdims=True)
    weights = np.exp(left - np.where(np.isfinite(best), best, 0.0))
    total = weights.sum(axis=1, keepdims=True)
    return np.asarray(np.divide(weights, total, out=np.zeros_like(weights), where=total > 0))


class Terms(NamedTuple):
    """An estimate as a sum of ratios of sums: sum_t (sum_i numerators[i, t] / sum_i weights[i, t]).

    Args:
        numerators, weights: (R, T).
    """

    numerators: Floats
    weights: Floats

    def drawn(self, users: Places, counts: Floats) -> Floats:
        """The estimate by each of B draws of users, whose `counts` are (B, U)."""
        sums = [np.stack([np.bincount(users, term) for term in each.T], axis=1) for each in self]  # (U, T)
        with np.errstate(invalid="ignore"):  # no weight at all, which is refused
            return np.asarray(((counts @ sums[0]) / (counts @ sums[1])).sum(axis=1))

    @property
    def effective_sample(self) -> float:
        """Records of equal weight that would vary as much, by the worst term (Kish 1965)."""
        squares = (self.weights**2).sum(axis=0)
        return float((self.weights.sum(axis=0) ** 2 / np.maximum(squares, np.finfo(float).tiny)).min())

    @property
    def gap(self) -> float:
        """The largest distance of a mean weight to 1."""
        return float(np.abs(self.weights.mean(axis=0) - 1).max())


def estimate(explored: Explored) -> dict[str, Any]:
    """Values of champion and challenger with 95 % intervals, as mean, low and high end; ready for JSON.

    Returns:
        `champion`, and under `estimates` by each estimator `value` and `difference` to the champion,
        `effective_sample`, `gap` (the largest distance of a mean weight to 1), and `refused`, why the first
        two are None, or empty.
    """
    clusters = Clusters.by(explored.users, len(explored.users), "users")
    terms = {"list": _list(explored), "cascade_dr": _cascade(explored)}
    clicks = explored.rewards.sum(axis=1, keepdims=True)
    own, largest = Terms(clicks, np.ones_like(clicks)), float(explored.drawn.shape[1])
    draws: dict[str, list[Floats]] = {name: [] for name in ("champion", *terms)}
    for rows in clusters.draws():
        counts = np.stack([np.bincount(each, minlength=len(clusters)) for each in rows]).astype(np.float64)
        for name, each in (("champion", own), *terms.items()):
            draws[name].append(each.drawn(clusters.of, counts))
    drawn = {name: np.concatenate(each) for name, each in draws.items()}
    ones = np.ones((1, len(clusters)))

    def interval(figure: float, values: Floats, lowest: float) -> tuple[float, float, float]:
        found = clusters.interval(figure, values, lowest, largest)
        return found.mean, found.low, found.high

    mean = float(clicks.mean())
    estimates: dict[str, Any] = {}
    for name, each in terms.items():
        figure = float(each.drawn(clusters.of, ones)[0])
        sample, gap = each.effective_sample, each.gap
        refused = _refusal(sample, gap)
        lead = drawn[name] - drawn["champion"]
        estimates[name] = {
            "value": None if refused else interval(figure, drawn[name], 0.0),
            "difference": None if refused else interval(figure - mean, lead, -largest),
            "effective_sample": sample,
            "gap": gap,
            "refused": refused,
        }
    sizes = {"records": len(clicks), "users": len(clusters)}
    return {**sizes, "champion": interval(mean, drawn["champion"], 0.0), "estimates": estimates}


def verdict(judged: Mapping[str, Any]) -> str:
    """One sentence by the estimator `cascade_dr` of what `estimate` returns."""
    found = judged["estimates"]["cascade_dr"]
    if found["refused"]:
        return f"no estimate: {found['refused']}"
    mean, low, high = found["difference"]
    what = "better" if low > 0 else "worse" if high < 0 else "no difference beyond chance"
    return f"{what}: {mean:+.4f} clicks an answer ({low:+.4f} to {high:+.4f}, 95 % interval)"


def _refusal(sample: float, gap: float) -> str:
    if not sample >= LEAST_SAMPLE:
        few = f"the effective sample is {sample:,.0f} records, expected at least {LEAST_SAMPLE:,.0f}"
        return f"{few}; explore more, or at a higher temperature"
    if gap > LARGEST_GAP:
        return (
            f"a mean weight differs from 1 by {gap:.2f}, expected at most {LARGEST_GAP}: the champion hardly "
            "showed what the challenger prefers; explore at a higher temperature"
        )
    return ""


def _list(explored: Explored) -> Terms:
    weights = (explored.conditional(explored.challenger) / explored.propensities).prod(axis=1, keepdims=True)
    return Terms(weights * explored.rewards.sum(axis=1, keepdims=True), weights)


def _cascade(explored: Explored) -> Terms:
    drawn, expected = _features(explored)  # (R, K, F)
    ratios = explored.conditional(explored.challenger) / explored.propensities
    weights = np.cumprod(ratios, axis=1, dtype=np.float64)
    before = np.concatenate([np.ones((len(weights), 1)), weights[:, :-1]], axis=1)
    estimated, mean = np.zeros_like(weights), np.zeros_like(weights)
    for half in (0, 1):
        own = explored.users % 2 == half
        coefficients = _fitted(explored.rewards, drawn, expected, weights, ~own)
        estimated[own] = np.einsum("rkf,kf->rk", drawn[own], coefficients)
        mean[own] = np.einsum("rkf,kf->rk", expected[own], coefficients)
    residuals = weights * (explored.rewards - estimated)
    return Terms(np.concatenate([residuals, before * mean], 1), np.concatenate([weights, before], 1))


def _features(explored: Explored) -> tuple[Floats, Floats]:
    """What Q takes of the drawn item, and its mean over the challenger's next item, each (R, K, 4).

    They are a constant, both policies' probabilities of the item, and whether an item before was clicked.
    Where nothing was drawn, both are equal and Q cancels.
    """
    found: tuple[list[Floats], list[Floats]] = ([], [])
    clicked = np.cumsum(explored.rewards, axis=1) - explored.rewards > 0
    for position in range(explored.drawn.shape[1]):
        logits = explored.champion, explored.challenger
        policies = [next_item(each, explored.drawn, position) for each in logits]
        fixed = np.stack([np.ones(len(clicked)), clicked[:, position]], axis=1)
        own = np.stack([explored._of_drawn(each, position) for each in policies], axis=1)
        mean = np.stack([(each * policies[1]).sum(axis=1) for each in policies], axis=1)
        mean = np.where(explored.drawn[:, position, None] >= 0, mean, own)
        for parts, each in zip(found, (own, mean), strict=True):
            parts.append(np.concatenate([fixed, each], axis=1))
    return np.stack(found[0], axis=1), np.stack(found[1], axis=1)


def _fitted(rewards: Floats, drawn: Floats, expected: Floats, weights: Floats, fold: Mask) -> Floats:
    """Coefficients of Q at each position, (K, F), from the last back, on some of the records."""
    positions, width = drawn.shape[1:]
    found, later = np.zeros((positions, width)), np.zeros(int(fold.sum()))
    for position in range(positions - 1, -1, -1):
        features, weight = drawn[fold, position], weights[fold, position]
        weighted = features * weight[:, None]
        gram = features.T @ weighted + RIDGE * np.eye(width)
        found[position] = np.linalg.solve(gram, weighted.T @ (rewards[fold, position] + later))
        later = expected[fold, position] @ found[position]
    return found
