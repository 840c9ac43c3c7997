"""Test events come after training events, and no history contains a later event."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinspire.protos.errors import DataError
from twinspire.train.config.data import SplitConfig
from twinspire.train.data import source
from twinspire.train.data.source import (
    BY_RANKING,
    POSITIVE,
    filter_events,
    share_of_repeats,
    sort_events,
)
from twinspire.train.data.splits.assign import assign_parts
from twinspire.train.data.splits.events import known_events
from twinspire.train.data.splits.parts import PARTS, SHOWN

Event = tuple[str, int, float, str, bool]  # user, item, time, session, positive

SPLITS: dict[str, dict[str, Any]] = {
    "last": {"by": "last"},
    "last_session": {"by": "last_session", "min_history": 2},
    "time": {"by": "time", "validation": 0.2, "test": 0.2},
    "random": {"by": "random"},
    "group": {"by": "group", "validation": 0.2, "test": 0.2},
}
SEEN_BY = {"train": {"train"}, "validation": {"train"}, "test": {"train", "validation"}}


def table_of(events: list[Event]) -> pl.DataFrame:
    """Events as a source gives them to `sort_events`."""
    columns: list[Any] = [list(each) for each in zip(*events, strict=True)]
    return pl.DataFrame(
        {
            "item_row": pl.Series(columns[1], dtype=pl.UInt32),
            "weight": pl.Series([1.0] * len(events), dtype=pl.Float32),
            "label": pl.Series(columns[4], dtype=pl.Float32),
            "group": pl.Series(columns[0], dtype=pl.String),
            "time": pl.Series(columns[2], dtype=pl.Float64),
            "session": pl.Series(columns[3], dtype=pl.String),
        }
    )


def divide(events: pl.DataFrame, config: SplitConfig) -> pl.DataFrame:
    """Events in order, with their parts; `group` is the id of the user."""
    pairs, users = sort_events([events])
    divided = assign_parts(pairs, config, users).collect()
    return divided.with_columns(group=users.gather(divided["group"]))


def runs_of(pairs: pl.DataFrame, by: str) -> tuple[list[int], list[int]]:
    """The items of all histories, and of all negative histories."""
    known = known_events(pairs, by)
    return known.filter(POSITIVE)["item_row"].to_list(), known.filter(~POSITIVE)["item_row"].to_list()


def divided(events: list[Event], **split: Any) -> dict[int, tuple[str, list[int]]]:
    """Item -> the part of its event and the items of its history. Each item has one event."""
    return {item: (part, history) for item, (part, history, _) in with_negatives(events, **split).items()}


def drawn(seed: int, users: int = 12) -> list[Event]:
    """An unsorted log with equal times, negative events and interleaved sessions."""
    random = np.random.default_rng(seed)
    count = int(random.integers(80, 160))
    events: list[Event] = []
    for item in range(count):
        user, time = int(random.integers(users)), float(random.integers(60))
        session = f"{int(time) // 8 + int(random.integers(2))}"
        events.append((f"u{user}", item, time, session, bool(random.random() < 0.8)))
    return events


def with_negatives(events: list[Event], **split: Any) -> dict[int, tuple[str, list[int], list[int]]]:
    """Item -> the part of its event, the items of its history, and those of its negative history."""
    config = SplitConfig(**split)
    pairs = divide(table_of(events), config)
    history, negatives = runs_of(pairs, config.by)
    spans = pairs.select("item_row", "part", "begin", "end", "negative_begin", "negative_end").rows()
    return {item: (part, history[b:e], negatives[n:m]) for item, part, b, e, n, m in spans}


@given(seed=st.integers(0, 10_000), by=st.sampled_from(sorted(SPLITS)), cold=st.sampled_from([0.0, 0.1]))
def test_no_history_contains_a_later_event(seed: int, by: str, cold: float) -> None:
    events = drawn(seed)
    result = with_negatives(events, **SPLITS[by], cold_items=cold, seed=seed)
    of_item = {event[1]: event for event in events}
    assert len(result) == len(events)
    found = [0, 0]
    for item, (part, *both) in result.items():
        user, _, time, session, _ = of_item[item]
        for is_negative, history in enumerate(both):
            for seen in history:
                found[is_negative] += 1
                assert of_item[seen][0] == user
                assert of_item[seen][4] != is_negative
                assert seen != item and result[seen][0] != "cold"
                if by == "group":
                    assert part in (result[seen][0], "cold")
                elif part != "cold":
                    assert result[seen][0] in SEEN_BY[part]
                if is_negative or by != "random" or part in ("train", "cold"):
                    assert of_item[seen][2] <= time
                if by == "last_session":
                    assert of_item[seen][3] != session
    assert min(found)


ORDERED = {name: split for name, split in SPLITS.items() if name != "random"}
ORDERED["event"] = {**SPLITS["time"], "history": "event"}


@given(seed=st.integers(0, 10_000), by=st.sampled_from(sorted(ORDERED)), cold=st.sampled_from([0.0, 0.2]))
def test_both_histories_of_a_record_end_at_one_moment(seed: int, by: str, cold: float) -> None:
    """Together they are the first of the user's known events, of which the newest can be taken."""
    config = SplitConfig(**ORDERED[by], cold_items=cold, seed=seed)
    pairs = divide(table_of(drawn(seed)), config)
    history, negatives = runs_of(pairs, config.by)
    known = known_events(pairs, config.by)
    of_user = {user: known.filter(group=user)["item_row"].to_list() for user in pairs["group"].unique()}
    spans = pairs.select("group", "begin", "end", "negative_begin", "negative_end").rows()
    for user, begin, end, first, last in spans:
        both = {*history[begin:end], *negatives[first:last]}
        assert both == {*of_user[user][: len(both)]}


def test_histories_up_to_the_event_hold_all_strictly_earlier_events() -> None:
    events = drawn(3)
    result = with_negatives(events, by="time", validation=0.2, test=0.2, history="event")
    tested = 0
    for item, (part, history, negatives) in result.items():
        user, _, time, _, _ = next(each for each in events if each[1] == item)
        earlier = [each for each in events if each[0] == user and each[2] < time]
        assert sorted(history) == sorted(each[1] for each in earlier if each[4])
        assert sorted(negatives) == sorted(each[1] for each in earlier if not each[4])
        tested += part == "test" and any(result[each][0] == "test" for each in history)
    assert tested  # histories hold events of their own part


def user(name: str, first: int, *labels: int, session: str = "abcdefgh") -> list[Event]:
    return [(name, first + n, float(n), session[n], bool(label)) for n, label in enumerate(labels)]


def test_the_last_event_is_test_and_the_one_before_it_validation() -> None:
    result = divided([*user("a", 0, 1, 1, 1, 1), *user("b", 10, 1, 1)], by="last")
    assert result == {
        0: ("train", []),
        1: ("train", [0]),
        2: ("validation", [0, 1]),
        3: ("test", [0, 1, 2]),
        10: ("train", []),
        11: ("train", [10]),
    }


@pytest.mark.parametrize("by", ["last", "time", "random", "group"])
def test_what_a_ranking_chose_to_show_stays_in_histories_and_is_not_tested(by: str) -> None:
    events = [(f"u{n % 400}", n, float(n), "s", True) for n in range(2400)]
    config = SplitConfig(**SPLITS[by])
    table = table_of(events)
    plain = divide(table, config)
    marked = divide(table.with_columns((pl.col("item_row") % 3 == 0).alias(BY_RANKING)), config)
    spans = ["item_row", "begin", "end", "negative_begin", "negative_end"]
    assert marked.select(spans).equals(plain.select(spans))
    assert runs_of(marked, config.by) == runs_of(plain, config.by)
    is_shown = marked[BY_RANKING] & (plain["part"] != "train")
    assert is_shown.sum() > 100
    assert (marked["part"] == SHOWN).equals(is_shown)
    others = plain.filter(~is_shown)["part"]
    assert marked.filter(~is_shown)["part"].equals(others) and {*others} == {*PARTS}


def test_a_random_event_of_each_user_is_test_and_another_validation() -> None:
    """Their history is all of the user's training events, also later ones."""
    events = [each for n in range(40) for each in user(f"u{n}", 10 * n, 1, 1, 0, 1, 1)]
    few = user("few", 900, 1, 1)
    result = divided([*events, *few], by="random", seed=3)
    places: dict[str, set[int]] = {"test": set(), "validation": set()}
    for n in range(40):
        own = {item: result[item] for item in range(10 * n, 10 * n + 5)}
        trained = [item for item, (part, _) in own.items() if part == "train" and item % 10 != 2]
        assert len(trained) == 2
        assert own[10 * n + 2][0] == "train"  # a negative
        for part, found in places.items():
            (drawn,) = (item for item, each in own.items() if each == (part, trained))
            found.add(drawn % 10)
        assert [own[item] for item in trained] == [("train", []), ("train", trained[:1])]
    assert places == {"test": {0, 1, 3, 4}, "validation": {0, 1, 3, 4}}
    assert result[900] == ("train", [])
    assert result[901] == ("train", [900])
    assert divided([*events, *few], by="random", seed=4) != result


def test_negatives_are_in_the_part_of_their_position() -> None:
    result = divided(user("a", 0, 1, 0, 1, 0, 1, 0), by="last")
    assert result == {
        0: ("train", []),
        1: ("train", [0]),
        2: ("validation", [0]),
        3: ("validation", [0]),
        4: ("test", [0, 2]),
        5: ("test", [0, 2]),
    }


def test_a_session_is_predicted_from_earlier_sessions() -> None:
    events = user("a", 0, 1, 1, 1, 1, 1, 1, session="xxyyzz")
    assert divided(events, by="last_session") == {
        0: ("train", []),
        1: ("train", []),
        2: ("validation", [0, 1]),
        3: ("validation", [0, 1]),
        4: ("test", [0, 1, 2, 3]),
        5: ("test", [0, 1, 2, 3]),
    }
    # Of b, the session that would be tested on has enough before it, the one before it has not.
    both = [*events, *user("b", 10, 1, 1, 1, 1, 1, session="ppqqr")]
    parts = divided(both, by="last_session", min_history=2)
    assert [parts[item][0] for item in range(10, 15)] == ["train"] * 2 + ["validation"] * 2 + ["test"]
    with pytest.raises(DataError, match="validation part of the split is empty"):
        divided(both, by="last_session", min_history=4)


def test_sessions_of_negatives_are_not_tested_on() -> None:
    events = user("a", 0, 1, 1, 0, 1, 0, session="vwxyz")
    assert divided(events, by="last_session") == {
        0: ("train", []),
        1: ("validation", [0]),
        2: ("validation", [0]),
        3: ("test", [0, 1]),
        4: ("test", [0, 1]),
    }


def test_a_cut_in_time_is_the_same_for_all_users() -> None:
    events = [("ab"[n % 2], n, float(n // 2), "s", True) for n in range(20)]
    result = divided(events, by="time", validation=0.2, test=0.2)
    assert {item: part for item, (part, _) in result.items() if part != "train"} == {
        **dict.fromkeys(range(12, 16), "validation"),
        **dict.fromkeys(range(16, 20), "test"),
    }
    assert result[12] == result[14] == ("validation", [0, 2, 4, 6, 8, 10])
    assert result[17] == result[19] == ("test", [1, 3, 5, 7, 9, 11, 13, 15])
    assert result[10] == ("train", [0, 2, 4, 6, 8])


def test_events_at_the_same_time_are_in_the_same_part() -> None:
    events = [("a", n, 5.0 if n > 10 else float(n) / 4, "s", True) for n in range(20)]
    result = divided(events, by="time", validation=0.05, test=0.05)
    assert {result[n][0] for n in range(11, 20)} == {"test"}
    assert result[10][0] == "validation"
    with pytest.raises(DataError, match="train part of the split is empty"):
        divided([("a", n, 1.0, "s", True) for n in range(9)], by="time")


def test_cold_items_are_only_in_their_own_part() -> None:
    events = [(f"u{n % 5}", n, float(n), "s", True) for n in range(100)]
    result = divided(events, by="last", cold_items=0.2)
    cold = {item for item, (part, _) in result.items() if part == "cold"}
    assert len(cold) == 20
    assert not any(cold & set(history) for _, history in result.values())
    for item in cold:
        assert result[item][1] == [each for each in range(item % 5, item, 5) if each not in cold]
    again = divided(events[::-1], by="last", cold_items=0.2)
    assert cold == {item for item, (part, _) in again.items() if part == "cold"}
    other = divided(events, by="last", cold_items=0.2, seed=1)
    assert cold != {item for item, (part, _) in other.items() if part == "cold"}


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"by": "last_session"}, "needs data.session"),
        ({"by": "time"}, "needs data.time"),
    ],
)
def test_a_split_needs_its_columns(split: dict[str, Any], message: str) -> None:
    events = table_of(drawn(0)).drop("time", "session")
    with pytest.raises(DataError, match=message):
        divide(events, SplitConfig(**split))


@pytest.mark.parametrize("repeats", ["first", "keep"])
@pytest.mark.parametrize("timed", [True, False])
def test_events_are_filtered_alike_however_few_users_are_filtered_at_a_time(
    monkeypatch: pytest.MonkeyPatch, repeats: str, timed: bool
) -> None:
    draw = np.random.default_rng(0)
    events = pl.DataFrame(
        {
            "group": [f"u{n}" for n in draw.integers(60, size=400)],
            "item_row": draw.integers(4, size=400).astype(np.uint32),
            "label": draw.integers(2, size=400).astype(np.float32),
            **({"time": draw.integers(3, size=400).astype(float)} if timed else {}),
        }
    )

    def filtered(table: pl.DataFrame) -> tuple[float, pl.DataFrame, dict[str, int]]:
        pairs, _ = sort_events([table])
        kept, dropped = filter_events(pairs, repeats, min_user_events=4)
        return share_of_repeats(pairs), kept.collect(), dropped

    share, known, counted = filtered(events)
    assert 0 < known.height < events.height and counted
    for at_once in (1, 7, 50):
        monkeypatch.setattr(source, "EVENTS_AT_ONCE", at_once)
        found_share, found, dropped = filtered(events)
        assert found.equals(known)
        assert dropped == counted
        assert found_share == share
    _, nothing, dropped = filtered(events.clear())
    assert nothing.is_empty() and not dropped
