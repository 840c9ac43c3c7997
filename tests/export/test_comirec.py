"""Several vectors of a history: training, export, a bundle, the registry and the gates."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch

from tests.helpers.stdlib import QUICK, Made, make_of, shared_made, tracking_at
from tests.helpers.watched import COMIREC, write_toml
from twinspire.export.release import promote, registry
from twinspire.protos import bundle
from twinspire.protos.nearest.search import paired_products
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.train.data.training_data import training_data_of
from twinspire.train.training.trained_model import load_model

pytestmark = [pytest.mark.exhaustive, pytest.mark.usefixtures("warm_fetches")]

HISTORY = ("f041", "f042", "f101", "f102", "f043")


@pytest.fixture(scope="module")
def made(films: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    short = {**COMIREC["training"], "epochs": 5}
    sections = {**COMIREC, **QUICK, "training": short, "gates": {"iterations": 200}}

    def make(folder: Path) -> Made:
        return make_of(write_toml(films, folder / "a.toml", "comirec", sections), empty_store, folder)

    made = shared_made(tmp_path_factory, "comirec", make)
    with tracking_at(made.uri):
        yield made


def test_the_bundle_has_the_vectors_of_torch_side_by_side(made: Made) -> None:
    manifest = bundle.read(made.folder)
    assert (manifest.interests, manifest.dimension) == (3, 33)
    for side in ("query", "item"):
        assert manifest.parity[side]["max_abs_diff"] <= manifest.parity[side]["tolerance"]
    retriever, towers = Retriever.load(made.folder), load_model(made.run).towers
    encoded = retriever.encode([Query(history=HISTORY)])
    arrays = manifest.schema.side("query").to_arrays({"history": [[*HISTORY]]})
    with torch.inference_mode():
        expected = towers[0].eval()({name: torch.from_numpy(each) for name, each in arrays.items()})
    np.testing.assert_allclose(encoded.vectors, expected, rtol=1e-4, atol=1e-4)
    each = encoded.vectors.reshape(3, 33)
    assert np.abs(each[0] - each[1]).max() > 0.01


def test_quality_is_that_of_the_answers(made: Made) -> None:
    manifest, logged = bundle.read(made.folder), made.metrics
    quality = manifest.quality
    assert quality["ndcg_at_10"] > 2 * quality["popularity_ndcg_at_10"]
    assert quality["ndcg_at_10"] == pytest.approx(logged["ndcg_at_10"], abs=0.02)
    data = training_data_of(made.dataset, made.experiment.query, made.experiment.item)
    rows, relevant = data.parts["test"].by_query()
    (history,) = (name for name in manifest.schema.query)
    queries = [Query(history=tuple(data.queries[history][row][-20:])) for row in rows]
    retriever = Retriever.load(made.folder)
    answers = retriever.search(queries, 10, exclude_history=True)
    ids = made.dataset.items["item_id"].to_list()
    found = [
        bool({hit.id for hit in answer.hits} & {ids[row] for row in own})
        for answer, own in zip(answers, relevant, strict=True)
    ]
    assert np.mean(found) == pytest.approx(quality["hr_at_10"], abs=0.02)


def test_the_score_is_the_largest_product(made: Made) -> None:
    retriever = Retriever.load(made.folder)
    (answer,) = retriever.search([Query(history=HISTORY)], 20)
    rows = [retriever.items.rows([hit.id]).pop() for hit in answer.hits]
    vectors = retriever.encode([Query(history=HISTORY)]).vectors.repeat(len(rows), axis=0)
    expected = paired_products(vectors, retriever.item_vectors[rows])
    assert [hit.score for hit in answer.hits] == pytest.approx(expected.tolist(), abs=1e-5)


def test_the_registry_answers_and_the_gates_hold(made: Made) -> None:
    with warnings.catch_warnings(record=True):  # lifted by MLflow
        version, _ = registry.register(made.folder)
        assert "3 vectors for each query" in (version.description or "")
        model = mlflow.pyfunc.load_model(f"models:/comirec/{version.version}")
        (hits,) = model.predict([{"history": [*HISTORY]}], params={"k": 5})
    (answer,) = Retriever.load(made.folder).search([Query(history=HISTORY)], 5)
    assert [hit["id"] for hit in hits] == [hit.id for hit in answer.hits]
    done = promote.promote(made.experiment, lambda: made.dataset, force=True, reason="times vary here")
    results = {each["name"]: each for each in done["decision"]["gates"]}
    for name in ("parity", "index_recall", "quality", "filtered_recall"):
        assert results[name]["holds"], results[name]["text"]
    assert results["index_recall"]["figure"] == pytest.approx(1, abs=0.05)
