"""Long calls are timed in rounds, so that none of them always comes first."""

from functools import partial

from twinspire.protos.system.timing import in_rounds


def test_the_order_turns_round_each_round_and_the_round_before_is_not_counted() -> None:
    called: list[str] = []
    taken = in_rounds({name: partial(called.append, name) for name in ("b", "a")}, 3)
    assert called == ["a", "b", "a", "b", "b", "a", "a", "b"]
    assert {name: len(seconds) for name, seconds in taken.items()} == {"a": 3, "b": 3}
    assert min(taken["a"]) >= 0
