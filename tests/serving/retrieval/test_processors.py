"""What is promised of answers holds on other processors; `tests/helpers/processors.py` emulates them."""

from pathlib import Path

import onnxruntime
import pytest

from tests.helpers import rounding
from tests.helpers.processors import ENVIRONMENTS, answers_in, assert_same
from tests.helpers.serving.answering import Answers, answers
from twinspire.protos import bundle
from twinspire.serving.retrieval.encoder import Encoder


@pytest.fixture(scope="module")
def here(plain: Path, watched: Path) -> list[Answers]:
    """The answers of two bundles in this process."""
    return [answers(plain), answers(watched, threads=2)]


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_another_processor_finds_the_same_items(
    name: str, plain: Path, watched: Path, here: list[Answers]
) -> None:
    for expected, found in zip(here, answers_in(name, (plain, watched)), strict=True):
        assert_same(name, expected, found)


def test_the_vectors_of_an_encoder_depend_on_the_size_of_the_batch(
    plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = onnxruntime.InferenceSession
    monkeypatch.setattr(session, "__init__", session.__init__)  # undone after the test
    rounding._change_onnx_runtime()
    encoder = Encoder(plain, bundle.read(plain), side="query")
    alone, first = (encoder.vectors(encoder.arrays([{"text": "bavuti"}] * rows))[0] for rows in (1, 2))
    assert 0 < abs(alone - first).max() < 1e-5
