"""Towers of several views through training, export, a bundle, and a real server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from protos import bundle
from protos.features import SIDES
from serving.client import Item, RetrievalClient
from serving.retrieval.encoder import Encoder
from tests.helpers.serving.cataloguing import catalogue_service
from tests.helpers.serving.loopback import client_of
from tests.helpers.stdlib import MULTI_VIEW, Made, Sections, make_of, shared_made, tracking_at, write_toml
from train.models.architectures.multi_view import ViewTower
from train.training.trained_model import load_model

pytestmark = pytest.mark.exhaustive

TEXTS = ["read a file", "parse the arguments of a command line and print help", "", "naïve café"]
SECTIONS: Sections = {
    **MULTI_VIEW,
    "loss": {"kind": "sampled_softmax", "within": "package"},
    "export": {"iterations": 10},
    "training": {"epochs": 1, "batch_size": 64, "threads": 1},
    "precision": {"query": "fp32", "item": "fp32", "vectors": "fp32"},
    "hybrid": {"enabled": False},
    "baselines": {"run": ["bm25"]},
}


@pytest.fixture(scope="module")
def made(stdlib: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    def make(folder: Path) -> Made:
        config = write_toml(stdlib, folder / "views.toml", "views", SECTIONS, data={"max_items": 150})
        return make_of(config, empty_store, folder)

    return shared_made(tmp_path_factory, "views", make)


@pytest.fixture(scope="module")
def client(made: Made) -> Iterator[RetrievalClient]:
    with client_of(made.folder) as client:
        yield client


def test_a_loaded_model_and_the_bundle_give_the_same_vectors(made: Made) -> None:
    manifest = bundle.read(made.folder)
    with tracking_at(made.uri):
        model = load_model(made.run)
    assert isinstance(model.towers[1], ViewTower)
    for side in SIDES:
        assert manifest.parity[side]["max_abs_diff"] <= manifest.parity[side]["tolerance"] <= 1e-5
    packages = [*model.schema.vocabularies["item.package"][:5], "never seen", None]
    records = [{"text": text, "package": package, "length": 40.0} for package in packages for text in TEXTS]
    encoder = Encoder(made.folder, manifest, side="item")
    found = encoder.vectors(encoder.arrays(records))
    columns = {name: [record[name] for record in records] for name in records[0]}
    arrays = model.schema.side("item").to_arrays(columns)
    with torch.inference_mode():
        expected = model.towers[1]({name: torch.from_numpy(each) for name, each in arrays.items()})
    np.testing.assert_allclose(found, expected, atol=1e-5)
    by_view = found.reshape(len(packages), len(TEXTS), -1)[:, 0]
    assert len(np.unique(by_view.round(5), axis=0)) == 4  # three views, and that of all others


def test_a_server_ranks_the_items_of_all_views(made: Made, client: RetrievalClient) -> None:
    vectors = np.load(made.folder / bundle.VECTORS)
    rows = {item: row for row, item in enumerate(made.dataset.items["item_id"])}
    encoder = Encoder(made.folder, bundle.read(made.folder))
    answers = client.search_batch(TEXTS, k=5)
    for text, answer in zip(TEXTS, answers, strict=True):
        query = encoder.vectors(encoder.arrays([{"text": text}]))[0]
        expected = [float(vectors[rows[hit.id]] @ query) for hit in answer.hits]
        assert [hit.score for hit in answer.hits] == pytest.approx(expected, abs=1e-4)
        assert len(answer.hits) == (5 if text else 0)


def test_live_items_take_the_tower_of_their_view(made: Made, tmp_path: Path) -> None:
    manifest = bundle.read(made.folder)
    known = manifest.schema.vocabularies["item.package"][:3]
    views = [*known, "never", None]
    records: dict[str, dict[str, Any]] = {
        f"new {view}": {"text": TEXTS[1], "length": 9.0, "package": view} for view in views
    }
    encoders = {side: Encoder(made.folder, manifest, side=side) for side in SIDES}
    items = encoders["item"].vectors(encoders["item"].arrays([*records.values()]))
    query = encoders["query"].vectors(encoders["query"].arrays([{"text": TEXTS[0]}]))[0]
    expected = dict(zip(records, (items @ query).tolist(), strict=True))
    assert len({round(score, 5) for score in expected.values()}) == 4
    of_bundle = str(made.dataset.items["item_id"][0])

    def scores(client: RetrievalClient, sequence: int) -> dict[str, float]:
        answer = client.search(TEXTS[0], k=made.dataset.items.height + len(records), min_sequence=sequence)
        return {hit.id: hit.score for hit in answer.hits}

    with (
        catalogue_service(made.folder, f"sqlite:///{tmp_path / 'items.db'}", tmp_path) as service,
        service.client() as client,
    ):
        written = client.upsert([_item(name, record) for name, record in records.items()])
        found = scores(client, written.sequence)
        assert of_bundle in found
        assert {name: found[name] for name in records} == pytest.approx(expected, abs=1e-4)
        moved = client.upsert([_item("new None", records[f"new {known[0]}"])])
        gone = client.delete(["new never", of_bundle])
        after = scores(client, max(moved.sequence, gone.sequence))
        assert after["new None"] == pytest.approx(expected[f"new {known[0]}"], abs=1e-4)
        assert {*found} - {*after} == {"new never", of_bundle}
        assert service.stop() == 0


def _item(name: str, record: dict[str, Any]) -> Item:
    return Item(name, {feature: value for feature, value in record.items() if value is not None})
