"""Answers that hold the items of two bundles, so that clicks say which of them users prefer.

Team draft (Radlinski, Kurup and Joachims 2008): in each round a coin says which bundle picks
first, and each takes its best item that is not in the answer yet. An item that both want next has no team,
because a click on it says nothing (Chapelle et al. 2012 leave such clicks out, too), and so has one that is
taken after the end of the other list. Each other position is either team's with the same probability, before
the coin of its round is drawn.
"""

import logging
from collections.abc import Callable, Sequence
from random import random
from typing import NamedTuple

from twinspire.protos.bundle import Manifest
from twinspire.protos.errors import ConfigError, TwinspireError
from twinspire.serving.engine.batching import Job
from twinspire.serving.retrieval.query import NO_SEARCH, InterleavedHits
from twinspire.serving.rollout.loaded_bundle import LoadedBundle, TrafficSplit
from twinspire.serving.wire.status import ClientGone

log = logging.getLogger(__name__)

CHAMPION, CHALLENGER = 0, 1  # teams
MakeJob = Callable[[], Job]  # raises where a query does not fit the bundle


class Pick(NamedTuple):
    """An item of an interleaved answer.

    Args:
        team: that gave it.
        place: in the team's own list.
        counts: whether a click on it says which team is preferred.
    """

    team: int
    place: int
    counts: bool


class Interleaver:
    """Chooses the searches that are interleaved, and merges their hits.

    Args:
        share: of the searches, 0 to 1.
        most: bytes of the hits of an answer; with more, the champion answers alone.
    """

    def __init__(self, share: float, most: int) -> None:
        self._share, self._most = share, most
        self._warned = ""  # version of the challenger whose failure has been logged

    def challenger(self, split: TrafficSplit) -> LoadedBundle | None:
        """The canary, if it answers the next search together with the champion; else None.

        Bundles whose index is on another server are never interleaved.
        """
        if split.canary is None or random() >= self._share:
            return None
        return None if any(each.manifest.is_remote for each in split.all) else split.canary

    def hits(self, job: Job, champion: LoadedBundle, challenger: LoadedBundle) -> bytes | None:
        """The hits of both bundles for the champion's job, as bytes; None if the champion answers alone.

        The job's result then has `interleaved`, and its sequence is the lower one of the two. A hit has score
        and fields of the bundle that gave it.
        """
        if job.rival is None:
            return None
        if job.rival.error is not None:
            if not isinstance(job.rival.error, ClientGone):
                self._warn(challenger, job.rival.error)
            return None
        bundles, found = (champion, challenger), (job.found[0], job.rival.found[0])
        ids = [
            [*map(bundle.retriever.items.item_id, each.rows)]
            for bundle, each in zip(bundles, found, strict=True)
        ]
        picks = team_draft(ids[CHAMPION], ids[CHALLENGER], job.options.k)
        parts = [bundles[each.team].responses.hits(found[each.team].at([each.place])) for each in picks]
        content = b"".join(parts)
        if len(content) > self._most:
            return None
        hits = InterleavedHits(
            [ids[each.team][each.place] for each in picks],
            challenger.version,
            [each.team if each.counts else None for each in picks],
        )
        job.found = [found[CHAMPION]._replace(interleaved=hits)]
        job.sequence = min(job.sequence, job.rival.sequence)
        return content

    def _warn(self, challenger: LoadedBundle, error: Exception) -> None:
        """Log the first failure of a version; a metric counts all."""
        if self._warned != challenger.version:
            self._warned = challenger.version
            log.warning("bundle %s fails in interleaved searches: %s", challenger.version[:12], error)


def check_share(share: float, manifest: Manifest) -> None:
    """Refuse to interleave a bundle whose index is on another server.

    Raises:
        ConfigError: a share of the searches is to be interleaved, and the index is there.
    """
    if share and manifest.is_remote:
        raise ConfigError(
            f"--interleave-share: expected a bundle whose index is in memory, got {manifest.index.kind}"
        )


def attempt(challenger: LoadedBundle, make: MakeJob) -> Job:
    """The challenger's job; one with the error, if it cannot be made."""
    try:
        return make()
    except TwinspireError as error:
        return failed(challenger, error)


def failed(challenger: LoadedBundle, error: TwinspireError) -> Job:
    """A job of the challenger that has failed."""
    job = Job(challenger.retriever, (), NO_SEARCH, no_answer)
    job.error = error
    return job


def no_answer(job: Job) -> bytes:
    """The answer of a challenger's job, which makes none of its own."""
    return b""


def team_draft(
    champion: Sequence[str], challenger: Sequence[str], k: int, draw: Callable[[], float] = random
) -> list[Pick]:
    """The picks of two teams from their lists, best first; `k`, or fewer if both lists end.

    Args:
        draw: a number from 0 to 1 for the coin of each round.
    """
    lists, taken, picks = ([*champion, None], [*challenger, None]), set[str | None](), list[Pick]()
    places = [0, 0]  # of each team's best item that is left

    def wanted() -> list[str | None]:
        """The best item of each team that is left; None at the end of its list."""
        for team, items in enumerate(lists):
            while items[places[team]] in taken:
                places[team] += 1
        return [items[place] for items, place in zip(lists, places, strict=True)]

    while len(picks) < k and (best := wanted()) != [None, None]:
        first = int(draw() < 0.5)
        for team in (first, 1 - first):
            item, is_shared = best[team], best[CHAMPION] == best[CHALLENGER]
            if item is not None and len(picks) < k:
                picks.append(Pick(team, places[team], not is_shared and None not in best))
                taken.add(item)
            if is_shared:  # each team wants another one now
                best = wanted()
    return picks
