"""Trained towers on other processors: the same items, and scores within the tolerance."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from tests.helpers.processors import ENVIRONMENTS, answers_in, assert_same
from tests.helpers.serving.answering import Answers, answers
from tests.helpers.stdlib import Made
from twinspire.protos import bundle
from twinspire.protos.nearest.scores import SCORE_TOLERANCE
from twinspire.serving.retrieval.encoder import Encoder
from twinspire.serving.retrieval.query import QueryForm, example_query

pytestmark = pytest.mark.exhaustive


@pytest.fixture(scope="module")
def folders(made_once: Made, films_made: Made) -> tuple[Path, Path]:
    """Bundles of texts and of histories."""
    return made_once.folder, films_made.folder


@pytest.fixture(scope="module")
def here(folders: tuple[Path, Path]) -> list[Answers]:
    """Their answers in this process."""
    return [answers(folder) for folder in folders]


def test_the_size_of_a_batch_does_not_change_an_answer(here: list[Answers]) -> None:
    for each in here:
        assert_same("trained towers, this process", each, each)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_another_processor_finds_the_same_items(
    name: str, folders: tuple[Path, Path], here: list[Answers]
) -> None:
    for expected, found in zip(here, answers_in(name, folders), strict=True):
        assert_same(f"trained towers, {name}", expected, found)


def test_other_kernels_of_onnx_runtime_give_vectors_within_the_tolerance(folders: tuple[Path, Path]) -> None:
    """Without packed weights and without fused nodes it takes other kernels for the same graph."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    for folder in folders:
        manifest = bundle.read(folder)
        form = QueryForm(manifest.schema.query)
        encoder = Encoder(folder, manifest)
        queries = [example_query(each) for each in manifest.examples]
        arrays = encoder.arrays([form.values(query, "query") for query in queries])
        expected = encoder.vectors(arrays)
        plain = onnxruntime.InferenceSession(folder / bundle.QUERY_TOWER, options)
        others = [plain.run(["vector"], arrays)[0]]
        others += [Encoder(folder, manifest, threads).vectors(arrays) for threads in (2, 4)]
        length = np.maximum(1, np.linalg.norm(expected, axis=1))
        for vectors in others:  # the largest difference that the score of an item of unit length can have
            assert (np.linalg.norm(vectors - expected, axis=1) / length).max() < SCORE_TOLERANCE
