"""The made viewers of `make looptest`: what they click, and how answers to judges are scored."""

import random
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from tests.load.loop.viewers import CLICK, ELSEWHERE, NOISE, Viewers
from twinspire.serving.retrieval.answer import Hit


def hits(*names: str) -> list[Hit]:
    return [Hit(name, 1 - n / 10, {}) for n, name in enumerate(names)]


def test_viewers_click_what_they_like_at_positions_that_they_look_at() -> None:
    answer = SimpleNamespace(hits=hits("a", "b", "x"), request_id="r1")
    client: Any = SimpleNamespace(search=lambda *_, **__: answer)
    viewers, chance = Viewers({"u": frozenset("ab")}, []), random.Random(0)
    visits = 5000
    events = [event for _ in range(visits) for event in viewers.visit(client, "u", chance)]
    clicks = Counter(event.item_id for event in events if event.request_id)
    for position, (name, probability) in enumerate([("a", CLICK), ("b", CLICK), ("x", NOISE)], 1):
        assert clicks[name] / visits == pytest.approx(probability / position, abs=0.03)
    assert {event.position for event in events if event.item_id == "a" and event.request_id} == {1}
    elsewhere = [event for event in events if not event.request_id]
    assert len(elsewhere) / visits == pytest.approx(ELSEWHERE, abs=0.03)
    assert {event.item_id for event in elsewhere} == {"a", "b"}
