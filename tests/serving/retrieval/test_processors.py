"""What is promised of answers holds on other processors; `tests/helpers/processors.py` emulates them."""

from pathlib import Path

import pytest

from tests.helpers.processors import ENVIRONMENTS, HASWELL, answers_in, assert_same, python
from tests.helpers.serving.answering import Answers, answers

pytestmark = pytest.mark.exhaustive

# Tests that compare answers from batches of different sizes, or with values that are written down.
COMPARING = (
    "engine/test_batching.py::test_each_gets_what_it_would_get_alone",
    "client/test_asynchronous.py::test_both_clients_say_the_same",
    "retrieval/test_history.py::test_a_batch_and_a_stream_answer_as_one_by_one",
    "engine/test_event_loop.py::test_a_query_that_breaks_its_batch_harms_only_itself",
    "retrieval/test_retriever.py",
    "test_server.py::test_a_batch_answers_in_order",
)


@pytest.fixture(scope="module")
def here(plain: Path, watched: Path) -> list[Answers]:
    """The answers of two bundles in this process."""
    return [answers(plain), answers(watched, threads=2)]


def test_the_size_of_a_batch_does_not_change_an_answer(here: list[Answers]) -> None:
    for each in here:
        assert_same("this process", each, each)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_another_processor_finds_the_same_items(
    name: str, plain: Path, watched: Path, here: list[Answers]
) -> None:
    for expected, found in zip(here, answers_in(name, (plain, watched)), strict=True):
        assert_same(name, expected, found)


@pytest.mark.skipif(HASWELL not in ENVIRONMENTS, reason="this processor lacks AVX2")
def test_the_tests_that_compare_answers_pass_on_another_processor() -> None:
    nodes = [f"tests/serving/{node}" for node in COMPARING]
    python(HASWELL, "-m", "pytest", "-q", "-p", "no:cacheprovider", *nodes)
