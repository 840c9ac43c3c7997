"""Histories with the times of their events become two arrays, aligned with each other."""

from typing import Any

import numpy as np
import pytest

from twinspire.protos.errors import InvalidInput
from twinspire.protos.features import Array, HistoryFeature, Schema, TimeFeature, TowerInputs
from twinspire.protos.inputs.events import LATEST, is_dated, item_ids, without_times

SCHEMA = Schema(
    {"history": HistoryFeature("history", max_length=3, times=True), "time": TimeFeature("time")},
    {"history": HistoryFeature("history")},
    {"items": ("a", "b", "c", "d")},
)


def arrays(histories: list[Any], times: list[Any] | None = None) -> dict[str, Array]:
    inputs: TowerInputs = SCHEMA.side("query")
    return inputs.to_arrays({"history": histories, "time": times or [None] * len(histories)})


def test_rows_and_times_are_aligned() -> None:
    found = arrays([[["a", 5.0], ["b", 7.9]], [("d", -0.5)], []], [8.5, None, 0])
    shapes = {"history": (3, 2), "history__times": (3, 2), "time": (3, 1)}
    assert {name: each.shape for name, each in found.items()} == shapes
    assert all(each.dtype == np.int64 for each in found.values())
    assert found["history"].tolist() == [[2, 3], [0, 5], [0, 0]]
    assert found["history__times"].tolist() == [[5, 7], [LATEST, -1], [LATEST, LATEST]]
    assert found["time"].tolist() == [[8], [LATEST], [0]]


def test_unknown_items_are_left_out_with_their_times_and_the_newest_kept() -> None:
    found = arrays([[["a", 1], ["x", 2], ["b", 3], ["y", 4], ["c", 5], ["d", 6], ["z", 7]]])
    assert found["history"].tolist() == [[3, 4, 5]]
    assert found["history__times"].tolist() == [[3, 5, 6]]


def test_times_may_be_absent() -> None:
    found = arrays([["a", "b"], [["a", None], "b", ["c", 3]], None])
    assert found["history"].tolist() == [[0, 2, 3], [2, 3, 4], [0, 0, 0]]
    assert found["history__times"].tolist() == [[LATEST] * 3, [LATEST, LATEST, 3], [LATEST] * 3]


@pytest.mark.parametrize(
    ("history", "reason"),
    [
        ("abc", "expected a list of item ids, got 'abc'"),
        ([["a"]], "expected item ids, or pairs of an item id and seconds"),
        ([["a", 1, 2]], "expected item ids, or pairs of an item id and seconds"),
        ([[1, "a"]], "expected item ids, or pairs of an item id and seconds"),
        ([["a", "1"]], "expected seconds since 1970, got '1'"),
        ([["a", True]], "expected seconds since 1970, got True"),
        ([["a", float("nan")]], "expected seconds since 1970, at most 1e12, got nan"),
        ([["a", -2e12]], "expected seconds since 1970, at most 1e12"),
    ],
)
def test_what_is_no_history_with_times_is_refused_by_name(history: Any, reason: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        arrays([[], history])
    assert (caught.value.field, caught.value.reason[: len(reason)]) == ("query.history", reason)


def test_a_history_without_times_takes_none() -> None:
    inputs = Schema({"history": HistoryFeature("history")}, SCHEMA.item, SCHEMA.vocabularies).side("query")
    assert [*inputs.to_arrays({"history": [["a"]]})] == ["history"]
    with pytest.raises(InvalidInput, match="expected a list of item ids"):
        inputs.to_arrays({"history": [[["a", 1.0]]]})


def test_a_negative_history_has_no_times() -> None:
    with pytest.raises(ValueError, match='times: goes with kind = "history"'):
        HistoryFeature("negative_history", times=True)


def test_a_history_is_parted_into_ids_and_times() -> None:
    dated = ["a", ("b", 2.0), ["c", None]]
    assert item_ids(dated) == ["a", "b", "c"]
    assert without_times(dated) == (["a", "b", "c"], [None, 2.0, None])
    assert [*map(is_dated, (dated, ["a"], [], None, "ab", 1.0))] == [True, False, False, False, False, False]
