"""The parts of `make looptest` beside the rounds: what they report, and how they compute it."""

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tests.helpers.tiny import item_ids
from tests.load.cli import looptest
from tests.load.loop import interleaving
from tests.load.loop.viewers import CLICK, NOISE, Judge, Viewers
from tests.load.measure_loop import Loop
from tests.load.plan import missed
from twinspire.serving.client import Query
from twinspire.serving.retrieval.retriever import Retriever

IDS = item_ids(300)
HISTORIES = [tuple(IDS[n : n + 4]) for n in range(0, 200, 10)]


@pytest.fixture(scope="module")
def judges(watched: Path) -> list[Judge]:
    """Judges who would click on what the bundle shows them first."""
    retriever = Retriever.load(watched)
    found = []
    for history in HISTORIES:
        hits = retriever.search([Query(history=history)], k=10, exclude_history=True)[0].hits
        found.append(Judge(history, frozenset(hit.id for hit in hits[::2])))
    return found


def test_clicks_are_those_of_the_answers_of_the_bundle(watched: Path, judges: list[Judge]) -> None:
    clicks = interleaving.Clicks(watched, judges)
    expected = [CLICK if n % 2 == 0 else NOISE for n in range(10)] / np.arange(1, 11)
    assert clicks.chances(clicks.vectors) == pytest.approx(np.tile(expected, (len(judges), 1)))


def test_figures_are_held_against_their_targets() -> None:
    kills = {"lost": 1, "twice": 0, "events_per_s": 480}
    found = {"changed_after_ms": {"p99": 12}, "events_per_s": 4000, "search": {"ratio": 1.1}, "kills": kills}
    report = looptest.events(found)
    report |= looptest.log({"rps": {"ratio": 0.96}, "p99_us": {"ratio": 1.2}})
    assert (report["log_rps_share"], report["log_p99_ratio"]) == (0.96, 1.2)
    assert missed(looptest.TARGETS, report) == ["acknowledged_lost", "events_per_s", "log_p99_ratio"]


@pytest.mark.exhaustive
@pytest.mark.quiet  # it starts a service and a registry
@pytest.mark.timeout(600)
def test_interleaving_runs(
    watched: Path, judges: list[Judge], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interleaving, "REPETITIONS", 1)
    monkeypatch.setattr(interleaving, "MEASURED", 500)
    loop = Loop(tmp_path, {}, Viewers({}, judges))
    report = interleaving.measure(loop, watched, 0, Console())
    (found,) = report["interleavings"]
    assert found["decision"] == "better"
    assert found["answers"] > 0
    assert 0 < found["wins"] + found["losses"] <= found["visitors"]
    assert found["clicks"] <= found["events"] == report["interleaving_events"]
