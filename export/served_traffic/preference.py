"""Whether users prefer the challenger's items, where answers hold items of both bundles.

A service interleaves by team draft (Radlinski et al. 2008), so that without a preference each click falls on
either team with probability 1/2. Each user counts once, with the first click on an interleaved answer, by the
time at which it was recorded: clicks of one user depend on each other. A served log that hashes users knows
them for a day, and a search without a user is a user of its own.

Let s of n users have clicked on the challenger's team. The evidence is the wealth of a bet against "at most
1/2", spread over larger shares by a Beta(a, a) distribution, a = `PRIOR`, cut to them (Robbins 1970):

    e = 2 B(a + s, a + n - s) / B(a, a) (1 - I_1/2(a + s, a + n - s)) 2^n

If the share is at most 1/2, its expectation is at most 1 whenever one looks, and it ever reaches 1/alpha with
probability alpha at most (Ville 1939). So the decision holds its error however often it is looked at, and the
first one stays, as long as the log holds all answers of the two. The interval has the shares against which
the same bet on both sides is below 1/alpha: the true one is in it at all times with probability 1 - alpha
(Howard et al. 2021).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import betainc, betaln, xlog1py, xlogy

from twinspire.export.served_traffic.served_answers import ServedFiles

PRIOR = 20.0  # a; little is lost for shares between .52 and .65
LOG_LARGEST = 700.0  # of an e-value that fits a float


@dataclass(frozen=True)
class Preference:
    """What the clicks on interleaved answers say.

    Args:
        answers: that were interleaved.
        clicks: on them, of all users.
        wins, losses: users whose first click was on the challenger's or on the champion's team.
        e_value: evidence that the challenger is preferred; above 1/alpha it is decided.
        share, low, high: wins of all users, and their interval.
        decision: the first that was reached; `open` before.
    """

    answers: int
    clicks: int
    wins: int
    losses: int
    e_value: float
    share: float
    low: float
    high: float
    decision: Literal["better", "worse", "open"]

    @property
    def text(self) -> str:
        """One sentence."""
        counted = f"{self.wins:,} users preferred the challenger, {self.losses:,} the champion"
        interval = f"share {self.share:.3f}, {self.low:.3f} to {self.high:.3f} at any time"
        return f"{self.decision}: {counted} ({interval}, e-value {self.e_value:,.3g})"


def preference_of(files: ServedFiles, champion: str, challenger: str, alpha: float) -> Preference | None:
    """What the log says of two versions of bundles; None if it has no interleaved answer of them.

    Args:
        alpha: probability of an error.

    Raises:
        MissingStage: there is no served log.
        InvalidInput: a file cannot be read.
    """
    answers = files.interleaved(champion, challenger)
    if not answers:
        return None
    clicks = files.clicks({each["request_id"] for each in answers})
    teams = {each["request_id"]: dict(zip(each["item_ids"], each["teams"], strict=True)) for each in answers}
    users = {each["request_id"]: each["user"] or each["request_id"] for each in answers}
    first: dict[str, int] = {}
    counted = 0
    for click in clicks:
        team = teams[click.request_id].get(click.item_id)
        if team is not None:
            counted += 1
            first.setdefault(users[click.request_id], team)
    return decided(list(first.values()), alpha, len(answers), counted)


def decided(teams: Sequence[int], alpha: float, answers: int = 0, clicks: int = 0) -> Preference:
    """The test of a sequence of first clicks.

    Args:
        teams: of each user, in the order of time: 1 for the challenger's, 0 for the champion's.
        alpha: probability of an error.
        answers, clicks: as of `Preference`.
    """
    wins = np.cumsum(teams, dtype=np.float64)
    losses = np.arange(1, len(wins) + 1) - wins
    better, worse = log_e_value(wins, losses), log_e_value(losses, wins)
    bound = -np.log(alpha)
    reached = np.flatnonzero(np.maximum(better, worse) >= bound)
    decision: Literal["better", "worse", "open"] = "open"
    if len(reached):
        decision = "better" if better[reached[0]] >= bound else "worse"
    won, lost = (int(each[-1]) if len(wins) else 0 for each in (wins, losses))
    e_value = float(np.exp(min(better[-1], LOG_LARGEST))) if len(wins) else 1.0
    share = won / (won + lost) if won + lost else 0.5
    ends = interval(won, lost, alpha)
    return Preference(answers, clicks, won, lost, e_value, share, *ends, decision)


def log_e_value(wins: npt.NDArray[np.float64], losses: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The logarithm of the e-value against "a share of at most 1/2" for some numbers of wins and losses."""
    a, b = PRIOR + wins, PRIOR + losses
    with np.errstate(divide="ignore"):  # a tail below the least float is no evidence at all
        above = np.log(betainc(b, a, 0.5))  # I_1/2(b, a) = 1 - I_1/2(a, b)
    return np.asarray(np.log(2) * (1 + wins + losses) + betaln(a, b) - betaln(PRIOR, PRIOR) + above)


def interval(wins: int, losses: int, alpha: float) -> tuple[float, float]:
    """The ends of the interval of the share, which holds at all times together."""
    mixture = betaln(PRIOR + wins, PRIOR + losses) - betaln(PRIOR, PRIOR) + np.log(alpha)

    def excess(share: float) -> float:
        return float(mixture - xlogy(wins, share) - xlog1py(losses, -share))

    middle = wins / (wins + losses) if wins + losses else 0.5
    low = brentq(excess, 1e-300, middle) if wins and excess(1e-300) > 0 else 0.0
    high = brentq(excess, middle, 1 - 1e-16) if losses and excess(1 - 1e-16) > 0 else 1.0
    return float(low), float(high)
