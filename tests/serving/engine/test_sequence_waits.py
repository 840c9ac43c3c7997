"""Calls that wait for a sequence: the room of their requests is shared fairly by their clients."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twinspire.protos.errors import Overloaded, Unavailable
from twinspire.serving.engine import sequence_waits
from twinspire.serving.engine.call import Deferred
from twinspire.serving.engine.sequence_waits import CALL_BYTES, ROOM_BYTES, SequenceWaits

MOST = ROOM_BYTES // CALL_BYTES  # calls without a message


class Waiting:
    """The waits of several clients, and which of them have ended."""

    def __init__(self) -> None:
        self.waits = SequenceWaits()
        self.refused: list[str] = []

    def add(self, client: str, size: int = 0, is_stored: bool = False) -> Deferred:
        """A call of a client waits for a sequence that never comes."""

        def ended(outcome: Callable[[], Any]) -> None:
            with pytest.raises(Overloaded):
                outcome()
            self.refused.append(client)

        call: Any = SimpleNamespace(client=SimpleNamespace(name=client), deadline=math.inf)
        deferred = self.waits.add(7, call, lambda: None, size, is_stored)
        deferred.when_resolved(ended)
        return deferred

    @property
    def held(self) -> dict[str, int]:
        """Bytes by client."""
        return dict(self.waits._held)


def test_a_client_with_few_waits_gets_in_where_another_has_filled_the_room() -> None:
    waiting = Waiting()
    for _ in range(MOST):
        waiting.add("flood")
    with pytest.raises(Overloaded, match="most of them from this client"):
        waiting.add("flood")
    for _ in range(10):
        waiting.add("good")
    assert waiting.refused == ["flood"] * 10
    assert waiting.held["good"] == 10 * CALL_BYTES


def test_requests_count_with_their_bytes() -> None:
    waiting = Waiting()
    large = 4 << 20
    for _ in range(ROOM_BYTES // (large + CALL_BYTES)):
        waiting.add("flood", large)
    with pytest.raises(Overloaded):
        waiting.add("flood", large)
    waiting.add("good", large)
    assert waiting.refused == ["flood"]


def test_a_call_that_is_over_makes_room() -> None:
    waiting = Waiting()
    calls = [waiting.add("flood") for _ in range(MOST)]
    calls[3].abandon()
    waiting.add("flood")
    assert waiting.refused == []


def test_a_stored_write_that_has_waited_too_long_is_said_to_be_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sequence_waits, "WAIT_SECONDS", 0.0)
    waits, found = SequenceWaits(), list[Callable[[], Any]]()
    call: Any = SimpleNamespace(client=SimpleNamespace(name="a"), deadline=math.inf)
    waits.add(7, call, lambda: None, is_stored=True).when_resolved(found.append)
    waits.release(2)
    with pytest.raises(Unavailable, match=r"up to 2; the write is stored, and will be found later$"):
        found[0]()


def test_writes_that_are_stored_are_never_ended() -> None:
    waiting = Waiting()
    waiting.add("flood", is_stored=True)
    for _ in range(MOST):
        waiting.add("flood")
    waiting.add("flood", is_stored=True)
    for _ in range(20):
        waiting.add("good")
    assert waiting.refused == ["flood"] * 20
    assert sum(each.is_stored for each in waiting.waits._waits.values()) == 2


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abcdef"), st.sampled_from([0, 1, 40_000, 1 << 20, 8 << 20])), max_size=120
    )
)
def test_no_client_within_its_share_is_refused_or_ended(waits: list[tuple[str, int]]) -> None:
    waiting = Waiting()
    for client, size in waits:
        before = waiting.held
        sharing = len(before.keys() | {client})
        share = ROOM_BYTES / sharing
        try:
            waiting.add(client, size)
        except Overloaded:
            assert before.get(client, 0) + size + CALL_BYTES > share
        for each in waiting.refused:
            assert before[each] > share
        waiting.refused.clear()
        assert sum(waiting.held.values()) == waiting.waits._bytes <= ROOM_BYTES + size
