"""What is promised of answers holds on other processors; `tests/helpers/processors.py` emulates them."""

from pathlib import Path

import pytest

from tests.helpers.processors import ENVIRONMENTS, answers_in, assert_same
from tests.helpers.serving.answering import Answers, answers

pytestmark = pytest.mark.exhaustive


@pytest.fixture(scope="module")
def here(plain: Path, watched: Path) -> list[Answers]:
    """The answers of two bundles in this process."""
    return [answers(plain), answers(watched, threads=2)]


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_another_processor_finds_the_same_items(
    name: str, plain: Path, watched: Path, here: list[Answers]
) -> None:
    for expected, found in zip(here, answers_in(name, (plain, watched)), strict=True):
        assert_same(name, expected, found)
