"""Whether interleaving finds a challenger that is better by 5 %, and how many events that takes.

The challenger is a bundle of MovieLens. The champion is a copy of it that takes some films for others: these,
chosen at random, have the vectors of films that it shows. They are as many as it takes for the challenger's
answers to get 5 % more clicks. Visitors are draws from the judges of `viewers.py`, each with a key of its
own. A visitor searches 2.5 times on average, with the first half of the judge's good ratings as the history,
and clicks as viewers do on the films of the other half. A service answers all of them with the items of both
bundles, and `python -m twinspire.export judge` looks at answers and clicks at most four times, until it has
decided, or there are a tenth of the events that an A/B test needs.

That number is for a test of users in two arms, one-sided at .05 and with a power of .8:

    2 n mean, with n = 2 (1.645 + .842)^2 variance / (.05 mean)^2 users in each arm

where mean and variance are those of a visitor's clicks on the champion's answers, from 20,000 visitors.
"""

import random
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from tests.helpers.altered import altered
from tests.load import alias
from tests.load.loop.viewers import CLICK, NOISE, POSITION_BIAS, Judge, K
from tests.load.measure_loop import EVENTS, NAME, Loop
from tests.load.plan import Target
from tests.load.services import ROOT, wait_for
from twinspire.protos import bundle, entry_points
from twinspire.serving.client import Event, Query, RetrievalClient
from twinspire.serving.retrieval.retriever import Retriever

GAIN = 0.05
SEARCHING_ON = 0.6  # probability that a visitor searches once more
MEASURED = 20_000  # visitors of the champion alone
NORMAL = 1.645 + 0.842  # quantiles of .95 and .8
LOOKS = 4  # at most
FLUSH = 1.0  # seconds after which an answer is in the served log
REPETITIONS = 10
Floats = npt.NDArray[np.float64]
TARGETS = (
    Target("better_accepted_of_10", "challengers that are better by 5 % and were accepted, of ten", ">=", 8),
    Target("interleaving_event_share", "events that this took, to those of an A/B test", "<=", 0.1),
)


def looked_at(position: int) -> float:
    """The probability that a visitor looks at a position; the first is 1."""
    return float(position**-POSITION_BIAS)


class Clicks:
    """The clicks on a bundle's answers to judges, if its items had other vectors.

    Args:
        folder: of the bundle.
    """

    def __init__(self, folder: Path, judges: Sequence[Judge]) -> None:
        items = Retriever.load(folder)
        self.vectors = np.load(folder / bundle.VECTORS)
        self._asked = items.encode([Query(history=each.history) for each in judges]).vectors
        rows = {item: row for row, item in enumerate(items.built.catalogue.ids)}
        self._known = np.zeros((len(judges), len(rows)), bool)
        self._chances = np.full(self._known.shape, NOISE)
        for number, each in enumerate(judges):
            self._known[number, [rows[item] for item in each.history if item in rows]] = True
            self._chances[number, [rows[item] for item in each.relevant if item in rows]] = CLICK

    def answers(self, vectors: Floats) -> npt.NDArray[np.int64]:
        """The rows of the items in each answer, (J, K), where items have these vectors, (N, D)."""
        scores = np.where(self._known, -np.inf, self._asked @ vectors.T)
        return np.argsort(-scores, axis=1)[:, :K]

    def chances(self, vectors: Floats) -> Floats:
        """The probability of a click on each of these items, (J, K)."""
        found = np.take_along_axis(self._chances, self.answers(vectors), axis=1)
        return found * [looked_at(position) for position in range(1, K + 1)]

    def mean(self, vectors: Floats) -> float:
        """Expected clicks of an answer."""
        return float(self.chances(vectors).sum(axis=1).mean())


def worse(clicks: Clicks, seed: int) -> Floats:
    """Vectors of a champion that loses against the bundle: this gets `GAIN` more clicks, or hardly more."""
    draw = np.random.default_rng(seed)
    own = clicks.vectors
    wrong = draw.permutation(len(own))
    taken_for = draw.choice(np.unique(clicks.answers(own)), len(own))

    def made(count: int) -> Floats:
        found: Floats = own.copy()
        found[wrong[:count]] = own[taken_for[:count]]
        return found

    most = clicks.mean(own) / (1 + GAIN)
    return next(vectors for vectors in map(made, range(len(own))) if clicks.mean(vectors) <= most)


def ab_events(chances: Floats, seed: int) -> float:
    """Clicks that an A/B test of users needs to see `GAIN`; chances of clicks are (J, K)."""
    draw = np.random.default_rng(seed)
    visitors = np.repeat(np.arange(MEASURED), draw.geometric(1 - SEARCHING_ON, MEASURED))
    chosen = chances[draw.integers(len(chances), size=MEASURED)[visitors]]
    clicks = np.bincount(visitors, (draw.random(chosen.shape) < chosen).sum(axis=1))
    users = 2 * NORMAL**2 * clicks.var() / (GAIN * clicks.mean()) ** 2
    return float(2 * users * clicks.mean())


@dataclass(frozen=True)
class Trial:
    """A registry with two bundles, and visitors of services that interleave them.

    Args:
        loop: with the registry's environment.
        config: of the experiment.
        judges: of whom visitors are draws.
        most: events of a repetition.
    """

    loop: Loop
    config: Path
    judges: Sequence[Judge]
    most: float

    def repeat(self, number: int) -> dict[str, Any]:
        """One repetition; what `judge` says in the end, with `events`, all clicks before."""
        folder = self.loop.folder / f"repetition-{number}"
        folder.mkdir()
        url, log, chance = f"sqlite:///{folder}/events.db", folder / "served", random.Random(number)
        flags: tuple[str, ...] = ("--events", url, "--served-log", str(log), "--served-log-share", "1")
        flags += ("--served-log-flush-seconds", str(FLUSH), "--interleave-share", "1")
        flags += ("--canary", f"models:/{NAME}@challenger", "--canary-share", "0")
        found: dict[str, Any] = {"decision": "open"}
        with self.loop.service(*flags) as service, RetrievalClient(service.address, timeout=60.0) as client:
            wait_for(lambda: has_both(client), f"{service.address}: the challenger is not there")
            events = visitors = 0
            for look in range(1, LOOKS + 1):
                while events < self.most * look / LOOKS:
                    visitors += 1
                    events += visit(
                        client, f"visitor-{number}-{visitors}", chance.choice(self.judges), chance
                    )
                time.sleep(2 * FLUSH)  # the answers are in the served log
                found = self._judged(url, log, folder / "events.parquet")
                if found["decision"] != "open":
                    break
        return {**found, "events": events, "visitors": visitors}

    def _judged(self, url: str, log: Path, exported: Path) -> dict[str, Any]:
        """What the commands say of the answers and clicks until now."""
        export = entry_points.command("twinspire.serving.events", "export", str(exported), "--events", url)
        subprocess.run(export, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        files = ("--served-log", str(log), "--events", str(exported))
        judged = self.loop.command("twinspire.export", "judge", *files, config=self.config)
        found: dict[str, Any] = judged["interleaving"]
        return found


def has_both(client: RetrievalClient) -> bool:
    """Whether a service has loaded the challenger, too."""
    return len(client.info().state["bundles"]) == 2


def visit(client: RetrievalClient, user: str, judge: Judge, chance: random.Random) -> int:
    """Search as one visitor, and record the clicks after the last search; returns their number."""
    events: list[Event] = []
    while True:
        answer = client.search(Query(history=judge.history, user=user), k=K, exclude_history=True)
        events += [
            Event(user, hit.id, "click", request_id=answer.request_id, position=place)
            for place, hit in enumerate(answer.hits, 1)
            if chance.random() < looked_at(place) * (CLICK if hit.id in judge.relevant else NOISE)
        ]
        if chance.random() >= SEARCHING_ON:
            break
    if events:
        client.record(events)
    return len(events)


def measure(loop: Loop, trained: Path, seed: int, console: Console) -> dict[str, Any]:
    """The figures of `TARGETS`, the gain and both numbers of events, and what each repetition has found.

    Args:
        trained: a bundle of MovieLens, whose items are those of the viewers.
    """
    judges, folder = loop.viewers.judges, loop.folder / "interleaving"
    folder.mkdir()
    clicks = Clicks(trained, judges)
    vectors = worse(clicks, seed)
    champion = altered(trained, folder, lambda draft: np.save(draft / bundle.VECTORS, vectors))
    needed = ab_events(clicks.chances(vectors), seed)
    found = []
    with alias.registry(folder, [champion, trained], NAME) as registry:
        registry.ask(2, "challenger")
        own = replace(loop, folder=folder, environment=alias.variables(folder, folder / "cache"))
        trial = Trial(own, own.write("interleaved.toml", EVENTS), judges, needed / 10)
        for number in range(REPETITIONS):
            found.append(trial.repeat(number))
            text = f"interleaving, repetition {number + 1}: {found[-1]['text']}"
            console.print(f"{text}, {found[-1]['events']:,} events", highlight=False)
    events = [each["events"] for each in found if each["decision"] == "better"]
    return {
        "better_accepted_of_10": 10 * len(events) / REPETITIONS,
        "interleaving_gain": clicks.mean(clicks.vectors) / clicks.mean(vectors) - 1,
        "ab_events": round(needed),
        "interleaving_events": statistics.median(events) if events else None,
        "interleaving_event_share": statistics.median(events) / needed if events else None,
        "interleavings": found,
    }
