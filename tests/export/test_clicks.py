"""A click model from labelled events to a served probability."""

import json
import shutil
from argparse import Namespace
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import altered, releases
from tests.helpers.click_logs import CLICKS_TOML, write_clicks
from tests.helpers.refreshing import ACCEPT, World, without_processes
from tests.helpers.serving.loopback import client_of
from tests.helpers.stdlib import Made, make_of, shared_made, tracking_at, tracking_copy
from twinspire.export import commands
from twinspire.export.evaluation import per_query
from twinspire.export.evaluation.per_query import PAIRS
from twinspire.export.refresh.refresh import refresh
from twinspire.export.release import promote as release
from twinspire.export.release import registry
from twinspire.export.release.gate import Comparison
from twinspire.export.release.gates import quality as quality_gate
from twinspire.protos import bundle
from twinspire.serving.client import Query
from twinspire.serving.live.store.records import ItemWrite, WriteRequest
from twinspire.serving.live.store.store import Store
from twinspire.serving.retrieval.query import example_query
from twinspire.train.config import read_experiment
from twinspire.train.data.training_data import Pairs, TrainingData, data_of_kept_towers, training_data_of
from twinspire.train.evaluation.exact_search import encode
from twinspire.train.evaluation.label_baselines import LABEL_BASELINES
from twinspire.train.models.prepared_inputs import PreparedInputs
from twinspire.train.models.tower_factory import architecture_of
from twinspire.train.models.towers import LogisticHead
from twinspire.train.training.trained_model import load_model

pytestmark = pytest.mark.exhaustive

SMALL = """
[export]
iterations = 5

[precision]
query = "fp32"
item = "fp32"

[index]
threads = 1
search = "exact"
"""


@pytest.fixture(scope="module")
def clicks(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return shared_made(
        tmp_path_factory, "clicks", lambda folder: made(folder, CLICKS_TOML + SMALL, empty_store)
    )


def made(folder: Path, toml: str, empty_store: Path) -> Made:
    write_clicks(folder, users=60, items=40, events=4000)
    toml = toml.replace("epochs = 6", "epochs = 3").replace("batch_size = 256", "batch_size = 64")
    (folder / "clicks.toml").write_text(toml)
    return make_of(folder / "clicks.toml", empty_store, folder)


def test_the_served_score_is_that_of_torch(clicks: Made) -> None:
    data = training_data_of(clicks.dataset, clicks.experiment.query, clicks.experiment.item)
    with tracking_at(clicks.uri):
        model = load_model(clicks.run)
    query_tower, item_tower = model.towers
    head = query_tower.head
    assert isinstance(head, LogisticHead)
    hashing = architecture_of(model.experiment.tower).hashing()
    pairs = data.parts["test"]
    asked = np.unique(pairs.query)[:40]
    corpus = PreparedInputs(model.schema, "item", data.items, hashing)
    items = item_tower.head.fit_to_catalogue(encode(item_tower, corpus))
    queries = encode(query_tower, PreparedInputs(model.schema, "query", data.queries, hashing), asked)
    expected = head.logits(queries.double() @ items.double().T).sigmoid().detach().numpy()

    people = [{name: values[row] for name, values in data.queries.items()} for row in asked]
    assert any(each["skipped"] and each["history"] for each in people)
    ids = list(data.item_ids)
    with client_of(clicks.folder) as client:
        scored = client.score_batch([(_query(each), ids) for each in people])
        found = client.search(_query(people[0]), k=len(ids))
    scores = np.array([[score for _, score in each.items] for each in scored])
    assert {each.kind for each in scored} == {"probability"}
    assert np.abs(scores - expected).max() < 1e-5
    assert np.ptp(expected, axis=1).mean() > 0.2
    row_of = {item_id: row for row, item_id in enumerate(ids)}
    assert all(abs(hit.score - scores[0][row_of[hit.id]]) < 1e-6 for hit in found.hits)


def _query(values: dict[str, Any]) -> Query:
    return example_query({name: value for name, value in values.items() if value is not None})


def test_a_bundle_is_compared_with_the_best_of_all_baselines_of_labels(clicks: Made) -> None:
    quality, metrics = bundle.read(clicks.folder).quality, clicks.metrics
    losses = {each.label: metrics[f"{each.name}_log_loss"] for each in LABEL_BASELINES}
    best = min(losses, key=lambda label: losses[label])
    assert best != "item means"  # which the bundle measures itself
    assert best in quality["verdict"]
    assert f"{losses[best]:.3f}" in quality["verdict"]
    assert "user_item_log_loss" in quality
    assert f"{quality['drawn_pairs']} drawn" in quality["verdict"]
    assert quality["drawn_pairs"] == clicks.run.data.params["evaluation.drawn_pairs"] != quality["drawn"]
    of_labels = {name for name in quality if name.endswith(("auc", "log_loss"))}
    arguments = Namespace(config=clicks.config, bundle=clicks.folder)
    with tracking_at(clicks.uri):
        again = commands.evaluate(read_experiment(clicks.config), arguments)
    assert {name: again[name] for name in of_labels} == pytest.approx({n: quality[n] for n in of_labels})
    assert again["verdict"] == quality["verdict"]


def test_without_its_run_a_bundle_is_compared_with_the_baselines_of_its_manifest(
    clicks: Made, empty_store: Path, tmp_path: Path
) -> None:
    quality = bundle.read(clicks.folder).quality
    with tracking_at(f"sqlite:///{shutil.copy(empty_store, tmp_path / 'mlflow.db')}"):
        again = commands.evaluate(
            read_experiment(clicks.config), Namespace(config=clicks.config, bundle=clicks.folder)
        )
    assert again["user_item_auc"] == quality["user_item_auc"]
    assert again["verdict"] == quality["verdict"]


def judged(clicks: Made, challenger: Path, folder: Path, champion: Path | None = None) -> Any:
    """The judgement of the gate on quality, and what it records."""

    def data() -> TrainingData:
        return data_of_kept_towers(clicks.dataset, clicks.experiment)

    sides = altered.side("2", challenger), altered.side("1", champion or clicks.folder)
    comparison = Comparison(*sides, clicks.experiment, data, folder)
    return quality_gate.judge(comparison), comparison.quality_change


def test_the_stored_losses_are_those_of_the_report(clicks: Made) -> None:
    found, quality = per_query.load(clicks.folder, PAIRS), bundle.read(clicks.folder).quality
    assert found is not None
    assert len(found.rows) == len(np.unique(found.rows)) == quality["labelled_pairs"]
    assert found.means()["log_loss"] == pytest.approx(quality["log_loss"], abs=1e-6)
    assert found.clusters.unit == "users"


def _with_both_labels(pairs: Pairs) -> list[int]:
    """The items that have positive and negative pairs."""
    clicked, skipped = pairs.item[pairs.is_positive], pairs.item[~pairs.is_positive]
    found: list[int] = np.intersect1d(clicked, skipped).tolist()
    return found


def test_a_refreshed_click_model_is_judged_on_the_pairs_that_are_left(
    clicks: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'items.db'}"
    data = data_of_kept_towers(clicks.dataset, clicks.experiment)
    test = data.parts["test"]
    lost, edited = _with_both_labels(test)[:2]
    new = json.dumps({"shop": "shop1", "price": 999.5})
    with closing(Store.open(url)) as store:
        writes = [ItemWrite(data.item_ids[lost], True), ItemWrite(data.item_ids[edited], features=new)]
        store.write([WriteRequest(writes)])
    with tracking_copy(clicks, tmp_path):
        registry.register(clicks.folder)
        without_processes(World(tmp_path), monkeypatch)
        release.promote(clicks.experiment, releases.no_data, compare=ACCEPT)
        done = refresh(clicks.experiment, lambda: clicks.dataset, url, compare=ACCEPT)
    folder = Path(done["bundle"])
    own, before = (per_query.load(each, PAIRS) for each in (folder, clicks.folder))
    assert own is not None and before is not None
    is_gone = np.isin(test.item, [lost, edited])
    is_left_out = np.isin(test.query, test.query[is_gone & test.is_positive])
    assert len(before.rows) == len(test)
    assert len(own.rows) == np.count_nonzero(~is_gone & ~is_left_out)
    # The pairs that are left have the same loss as before, so the towers saw no new content.
    one, other = per_query.common(own, before)
    assert len(one.rows) == len(own.rows)
    assert one.metrics["log_loss"] == pytest.approx(other.metrics["log_loss"], abs=1e-5)
    quality = bundle.read(folder).quality
    assert quality["drawn_pairs"] == str(own.clusters)
    assert quality["labelled_pairs"] == len(own.rows)
    assert quality["log_loss"] == pytest.approx(own.means()["log_loss"], abs=1e-6)
    (result, measured), change = judged(clicks, folder, tmp_path)
    assert result.holds and result.figure == pytest.approx(0, abs=1e-6)
    assert measured["pairs"] == len(own.rows)
    assert f"over {len(own.rows):,} pairs, lower is better" in result.text
    assert set(change) >= {"log_loss", "ndcg_at_10"}
