"""The page on which queries towers and baselines differ, and on how frequent items."""

from dataclasses import replace

import numpy as np
import pytest

from tests.helpers.people import data_of_people
from tests.helpers.rendered import HOSTILE, html_elements
from twinspire.train.data.training_data import TrainingData
from twinspire.train.evaluation.quality_page import item_groups, quality_page

ITEMS = 30
PEOPLE = [[n % 5, 5 + n % 7, n % 3, n] for n in range(24)]


def data() -> TrainingData:
    return data_of_people(PEOPLE, ITEMS)


def rankings(places: list[int]) -> np.ndarray:
    """Rankings of 20 items that have the right item of each query at a place, from 1 on; 0 for nowhere."""
    _, relevant = data().parts["test"].by_query()
    found = np.zeros((len(relevant), 20), np.int64)
    for row, (items, place) in enumerate(zip(relevant, places, strict=True)):
        others = [item for item in range(ITEMS) if item not in items]
        found[row] = others[:20] if not place else [*others[: place - 1], items[0], *others[place - 1 : 19]]
    return found


def test_items_are_grouped_by_how_often_training_has_seen_them() -> None:
    counts = np.array([0, 0, 1, 1, 1, 1, 2, 2, 3, 9, 40, 41])
    groups = item_groups(counts)
    assert {label: int(which.sum()) for label, which in groups.items()} == {
        "new": 2,
        "1": 4,
        "2": 2,
        "3 to 9": 2,
        "10 to 41": 2,
        "all": 12,
    }
    assert [*item_groups(np.array([0, 7, 7]))] == ["new", "1 to 7", "all"]
    assert [*item_groups(np.zeros(3, np.int64))] == ["new"]


def test_the_queries_on_which_both_differ_most_come_first() -> None:
    count = len(PEOPLE)
    own, other = [1] * count, [1] * count
    own[3], other[3] = 1, 0  # the largest win
    own[5], other[5] = 2, 6
    own[8], other[8] = 20, 1  # the largest loss
    page = quality_page(data(), {"": rankings(own), "ease": rankings(other)}, "films", "towers")
    won, lost = (part.split("</table>")[0] for part in page.split("<h2>")[2:])
    assert won.startswith("towers better than EASE")
    assert lost.startswith("EASE better than towers")
    assert won.count("<tr>") == 1 + 2
    assert lost.count("<tr>") == 1 + 1
    assert won.index("after 20") < won.index(">6<")
    assert ">20<" in lost
    assert page.split("<h2>")[1].count("<tr>") > 2


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_the_data_stays_text(text: str) -> None:
    known = data()
    hostile = replace(known, items={"title": [text] * ITEMS})
    places = [1] * len(PEOPLE)
    plain = replace(known, items={"title": ["plain"] * ITEMS})
    answers = {"": rankings(places), "ease": rankings([0, *places[1:]])}
    expected, found = (html_elements(quality_page(each, answers, "f", "towers")) for each in (plain, hostile))
    assert [each for each in found if each[0] != "code"] == expected
