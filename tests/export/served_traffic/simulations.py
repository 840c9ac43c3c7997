"""Made users who click on explored and interleaved answers, with values that are known."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from twinspire.export.served_traffic.off_policy import Explored, estimate

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]
EXAMINED = np.array([1.0, 0.7, 0.5, 0.4, 0.3, 0.25, 0.2, 0.18, 0.16, 0.15])  # users who look at a position


@dataclass(frozen=True)
class World:
    """Items with hidden qualities, two rankers that see them with noise, and users who click.

    Args:
        clicks: `position`, where a click depends on item and position, or `cascade`, where a user reads from
            the top, and mostly leaves after a click.
        candidates, shown: M and K.
    """

    clicks: str
    candidates: int = 8
    shown: int = 4

    def clicked(self, rng: np.random.Generator, qualities: Floats) -> Floats:
        """(R, K): clicks on items of these qualities, in the order in which they are shown."""
        attracts = rng.random(qualities.shape) < 1 / (1 + np.exp(1.5 - qualities))
        if self.clicks == "position":
            return (attracts & (rng.random(qualities.shape) < EXAMINED[: qualities.shape[1]])).astype(float)
        reads, found = np.ones(len(qualities), bool), np.zeros(qualities.shape)
        for position in range(qualities.shape[1]):
            found[:, position] = reads & attracts[:, position]
            leaves = np.where(found[:, position] > 0, 0.8, 0.1)
            reads &= rng.random(len(reads)) >= leaves
        return found

    def explored(self, seed: int, users: int) -> Explored:
        """Three answers to each user, drawn by the champion."""
        made = self._answered(seed, users)
        return replace(made, propensities=made.conditional(made.champion))

    def _answered(self, seed: int, users: int, by_challenger: bool = False) -> Explored:
        """Three answers to each user, by either ranker, without the propensities."""
        rng = np.random.default_rng(seed)
        numbers = np.repeat(np.arange(users), 3)
        ease = rng.normal(0, 0.5, users)  # some are harder to please
        qualities = rng.normal(0, 1, (len(numbers), self.candidates)) + ease[numbers][:, None]
        champion = 0.5 * qualities + rng.normal(0, 0.5, qualities.shape)
        challenger = 0.7 * qualities + rng.normal(0, 0.3, qualities.shape)
        logits = challenger if by_challenger else champion
        order = np.argsort(-(logits + rng.gumbel(size=logits.shape)), axis=1)[:, : self.shown]
        rewards = self.clicked(rng, np.take_along_axis(qualities, order, axis=1))
        return Explored(order, rewards, np.ones(order.shape), champion, challenger, numbers)

    def value(self, by_challenger: bool, draws: int = 10) -> float:
        """Mean clicks of an answer, of 60,000 answers a draw."""
        found = [self._answered(10**6 + n, 20_000, by_challenger) for n in range(draws)]
        return float(np.mean([each.rewards.sum(axis=1).mean() for each in found]))


def coverage(clicks: str, draws: int = 100, users: int = 2000) -> Counter[tuple[str, str]]:
    """How many intervals hold the truth: estimator, and `value` or `difference` -> number of draws."""
    world = World(clicks)
    truth, champion = world.value(True), world.value(False)
    held = Counter[tuple[str, str]]()
    for seed in range(draws):
        for name, each in estimate(world.explored(seed, users))["estimates"].items():
            assert not each["refused"]
            for what, expected in (("value", truth), ("difference", truth - champion)):
                _, low, high = each[what]
                held[name, what] += low <= expected <= high
    return held


def team_draft(
    rng: np.random.Generator, first: Sequence[int], second: Sequence[int], k: int
) -> tuple[list[int], list[int | None]]:
    """Items and teams of two long lists, written again from the paper: the service has its own."""
    lists = [*first], [*second]
    items: list[int] = []
    teams: list[int | None] = []
    while len(items) < k:
        best = [next(each for each in own if each not in items) for own in lists]
        starts = int(rng.integers(2))
        for team in (starts, 1 - starts):
            if best[0] == best[1]:
                items.append(best[0])
                teams.append(None)
                best = [next(each for each in own if each not in items) for own in lists]
            else:
                items.append(best[team])
                teams.append(team)
    return items[:k], teams[:k]


@dataclass(frozen=True)
class Seekers:
    """Users who look for one item, and click on it where they see it; now and then also on another one.

    Both rankers see the same evidence with some noise of their own, and the challenger sees a bit more of it.

    Args:
        gain: of the challenger's score of the item.
        noise: of each ranker alone.
    """

    gain: float
    noise: float = 0.15
    items: int = 50
    shown: int = 10

    def lists(self, rng: np.random.Generator, size: int) -> tuple[Numbers, Numbers]:
        """The rankers' lists (R, M) for some searches, in which item 0 is looked for."""
        champion, challenger = (np.argsort(-each, axis=1) for each in self._scores(rng, size))
        return champion, challenger

    def _scores(self, rng: np.random.Generator, size: int) -> list[Floats]:
        """Of both rankers, (R, M)."""
        shared = rng.normal(0, 1, (size, self.items))
        shared[:, 0] += 1.0
        scores = [shared + rng.normal(0, self.noise, shared.shape) for _ in range(2)]
        scores[1][:, 0] += self.gain
        return scores

    def clicks(self, rng: np.random.Generator, ease: Floats, items: Numbers) -> npt.NDArray[np.bool_]:
        """(R, K): which shown items are clicked."""
        attraction = np.where(items == 0, 1.0, 0.02) * ease[:, None]
        found: npt.NDArray[np.bool_] = rng.random(items.shape) < attraction * EXAMINED[: items.shape[1]]
        return found

    def gained(self, rng: np.random.Generator, size: int = 200_000) -> float:
        """How many more clicks the challenger's answers get, relative to the champion's."""
        places = [(each[:, 1:] > each[:, :1]).sum(axis=1) for each in self._scores(rng, size)]  # of item 0
        examined = [float(EXAMINED[each[each < self.shown]].sum()) / size for each in places]
        first, second = (0.98 * each + 0.02 * float(EXAMINED.sum()) for each in examined)
        return second / first - 1

    def interleaved(self, rng: np.random.Generator, users: int) -> Iterator[tuple[int, int | None]]:
        """Each click of users in turn: the user, and the team; of 1 to several searches by each."""
        for user in range(users):
            count = int(rng.geometric(0.4))
            ease = np.full(count, rng.beta(1, 2))
            pairs = zip(*self.lists(rng, count), strict=True)
            drafts = [team_draft(rng, own.tolist(), other.tolist(), self.shown) for own, other in pairs]
            clicked = self.clicks(rng, ease, np.array([items for items, _ in drafts]))
            for search, position in np.argwhere(clicked):
                yield user, drafts[search][1][position]

    def clicks_of_ab_test(self, rng: np.random.Generator, users: int = 40_000) -> float:
        """Clicks that an A/B test of users needs to see 5 % more: one-sided at .05, with a power of .8."""
        counts = rng.geometric(0.4, users)
        of = np.repeat(np.arange(users), counts)
        shown = self.lists(rng, len(of))[0][:, : self.shown]
        clicks = np.bincount(of, self.clicks(rng, rng.beta(1, 2, users)[of], shown).sum(axis=1))
        needed = 2 * (1.645 + 0.842) ** 2 * clicks.var() / (0.05 * clicks.mean()) ** 2  # users of each arm
        return float(2 * needed * clicks.mean())
