"""Towers that read words in their order through training, export, a bundle, and a real server."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from protos import bundle
from protos.features import SIDES
from serving.client import RetrievalClient
from serving.retrieval.encoder import Encoder
from tests.helpers.serving.loopback import client_of
from tests.helpers.stdlib import (
    CDSSM,
    FEW,
    LSTM,
    QUICK,
    Made,
    Sections,
    make_of,
    shared_made,
    tracking_at,
    write_toml,
)
from train.training.trained_model import load_model

pytestmark = pytest.mark.exhaustive

TEXTS = [
    "read a file",
    "x",
    "a " * 45,
    "parse the arguments of a command line and print help",
    "",
    "naïve café",
]
KINDS: dict[str, Sections] = {"cdssm": CDSSM, "lstm": LSTM}
SHORT: Sections = {**QUICK, "training": {"epochs": 1, "batch_size": 64, "threads": 1}}


@pytest.fixture(scope="module", params=["cdssm", pytest.param("lstm", marks=pytest.mark.exhaustive)])
def made(
    request: pytest.FixtureRequest, stdlib: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Made:
    kind = request.param

    def make(folder: Path) -> Made:
        config = write_toml(stdlib, folder / f"{kind}.toml", kind, {**KINDS[kind], **SHORT}, data=FEW)
        return make_of(config, empty_store, folder)

    return shared_made(tmp_path_factory, kind, make)


@pytest.fixture(scope="module")
def client(made: Made) -> Iterator[RetrievalClient]:
    with client_of(made.folder) as client:
        yield client


def test_torch_and_onnx_runtime_agree_in_any_batch(made: Made) -> None:
    manifest = bundle.read(made.folder)
    with tracking_at(made.uri):
        model = load_model(made.run)
    for side, tower in zip(SIDES, model.towers, strict=True):
        assert manifest.parity[side]["max_abs_diff"] <= manifest.parity[side]["tolerance"] <= 1e-5
        encoder = Encoder(made.folder, manifest, side=side)
        arrays = model.schema.side(side).to_arrays({"text": TEXTS})
        with torch.inference_mode():
            expected = tower({name: torch.from_numpy(each) for name, each in arrays.items()})
        together = encoder.vectors(encoder.arrays([{"text": text} for text in TEXTS]))
        np.testing.assert_allclose(together, expected, atol=1e-5)
        assert not together[TEXTS.index("")].any()
        for text, vector in zip(TEXTS, together, strict=True):
            alone = encoder.vectors(encoder.arrays([{"text": text}]))[0]
            np.testing.assert_allclose(alone, vector, atol=1e-5)


def test_a_server_answers(made: Made, client: RetrievalClient) -> None:
    vectors = np.load(made.folder / bundle.VECTORS)
    rows = {item: row for row, item in enumerate(made.dataset.items["item_id"])}
    encoder = Encoder(made.folder, bundle.read(made.folder))
    answers = client.search_batch(TEXTS, k=5)
    for text, answer in zip(TEXTS, answers, strict=True):
        if not text:
            assert (answer.hits, str(answer.basis)) == ((), "none")
            continue
        query = encoder.vectors(encoder.arrays([{"text": text}]))[0]
        expected = [float(vectors[rows[hit.id]] @ query) for hit in answer.hits]
        assert [hit.score for hit in answer.hits] == pytest.approx(expected, abs=1e-4)
        assert len(answer.hits) == 5
        assert [hit.id for hit in client.search(text, k=5).hits] == [hit.id for hit in answer.hits]


def test_the_order_of_words_counts_in_the_service(client: RetrievalClient) -> None:
    one, other = client.search_batch(["read a file into a string", "a string into a file read"], k=5)
    assert [hit.score for hit in one.hits] != [hit.score for hit in other.hits]
