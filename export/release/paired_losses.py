"""The log loss of champion and challenger on the same labelled test pairs, by which click models are judged.

losses = stored_losses(challenger, champion, same_towers=False)   # or why both must be evaluated again
losses.difference(seed)                                           # challenger less champion: lower is better
"""

from dataclasses import dataclass

import numpy as np

from twinspire.export.evaluation import pair_losses
from twinspire.export.evaluation.pair_losses import PairLosses
from twinspire.export.release.gate import ComparedVersion
from twinspire.train.evaluation.intervals import Clusters, Interval, interval
from twinspire.train.evaluation.labelled_metrics import HIGHEST

LOG_LOSS = "log_loss"


@dataclass(frozen=True)
class PairedLosses:
    """The log loss of the same labelled pairs by one or both bundles.

    Args:
        challenger, champion: of each bundle; None where there is none.
        lacking: why they cannot be compared; empty if they can, or need not.
    """

    challenger: PairLosses | None = None
    champion: PairLosses | None = None
    lacking: str = ""

    @property
    def clusters(self) -> Clusters:
        """Of the pairs."""
        assert self.challenger is not None
        return self.challenger.clusters

    def means(self) -> dict[str, float]:
        """`challenger` and `champion` -> the mean loss, where each pair's is a number."""
        sides = {"challenger": self.challenger, "champion": self.champion}
        known = {name: each.losses for name, each in sides.items() if each is not None}
        finite = {name: losses for name, losses in known.items() if np.isfinite(losses).all()}
        return {name: float(losses.mean(dtype=np.float64)) for name, losses in finite.items()}

    def intervals(self, seed: int) -> dict[str, Interval]:
        """`challenger` and `champion` -> the mean loss with its interval, where each pair's is a number."""
        found = {}
        for name in self.means():
            side = self.challenger if name == "challenger" else self.champion
            assert side is not None
            found[name] = interval(side.losses, self.clusters, seed=seed, highest=HIGHEST[LOG_LOSS])
        return found

    def difference(self, seed: int) -> Interval:
        """The challenger's mean loss less the champion's, which must both be known."""
        assert self.challenger is not None and self.champion is not None
        losses = self.challenger.losses, self.clusters, self.champion.losses
        return interval(*losses, seed, HIGHEST[LOG_LOSS])

    def champions_lead(self) -> float:
        """By how much the champion's mean loss is below that of the pairs' base rate."""
        assert self.champion is not None
        return self.champion.base_rate_loss - self.means()["champion"]


def stored_losses(
    challenger: ComparedVersion, champion: ComparedVersion | None, same_towers: bool
) -> PairedLosses | str:
    """The losses that the bundles hold, or why both must be evaluated again.

    Args:
        challenger, champion: of the same split.
        same_towers: the challenger was refreshed and has the champion's towers, so its bundle may lack pairs.

    Raises:
        BundleDamaged: a file of losses is damaged.
    """
    own = pair_losses.load(challenger.folder)
    if champion is None:
        return PairedLosses(own)
    if lacking := why_without_losses(challenger) or why_without_losses(champion):
        return PairedLosses(lacking=lacking)
    other = pair_losses.load(champion.folder)
    if own is None or other is None:
        return f"the {'challenger' if own is None else 'champion'} brings no log loss of single pairs"
    if same_towers:
        own, other = pair_losses.common(own, other)
        return PairedLosses(own, other) if len(own.pairs) else "no test pair is in both bundles"
    if not np.array_equal(own.pairs, other.pairs):
        return "the bundles hold other pairs"
    return PairedLosses(own, other)


def why_without_losses(version: ComparedVersion) -> str:
    """Why a bundle cannot have losses of pairs, as its manifest says; empty if it can."""
    manifest = version.manifest
    if manifest.score.kind != "sigmoid":
        return f"the scores of version {version.version} are no probabilities"
    if manifest.refreshed_from is None and LOG_LOSS not in manifest.quality:
        return f"the test pairs of version {version.version} do not have both labels"
    return ""


def paired(
    challenger: PairLosses | None, champion: PairLosses | None, versions: tuple[ComparedVersion, ...]
) -> PairedLosses:
    """The losses of both bundles, evaluated again on the same pairs.

    Args:
        versions: the challenger, and the champion if there is one.
    """
    sides = (challenger, champion)[: len(versions)]
    if None not in sides:
        return PairedLosses(challenger, champion)
    known = next(filter(None, map(why_without_losses, versions)), "")
    return PairedLosses(lacking=known or "the test pairs do not have both labels")
