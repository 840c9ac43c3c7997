"""A collection is tuned as a graph is, and what it returns is what the service returns."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pytest

from tests.export.ann.test_index import ITEMS, QUERIES
from tests.helpers.releases import ANN, LATENCY, PARITY, QUALITY, small_experiment
from tests.helpers.tiny import tiny_bundle
from tests.helpers.vector_databases import ENGINES, NOWHERE, Engine
from twinspire.export import ann, bundle_builder
from twinspire.export.ann.kinds import remote
from twinspire.export.bundle_files import write_bundle
from twinspire.protos import bundle
from twinspire.protos.bundle import REMOTE_KINDS, Score
from twinspire.protos.errors import ConfigError, Unavailable
from twinspire.protos.vector_databases.database import collection_name
from twinspire.train.config.index import IndexConfig
from twinspire.train.training.tracking import experiment_id

COSINE = Score("cosine")
on_all = pytest.mark.parametrize("engine", ENGINES, indirect=True)


@on_all
def test_a_collection_is_tuned_to_its_target(engine: Engine) -> None:
    config = IndexConfig(kind=engine.kind, recall_target=0.9)
    tuned = ann.index_kind(engine.kind).tune(ITEMS, QUERIES, config, COSINE)
    parameters, report = tuned.parameters, tuned.report
    assert (parameters.kind, parameters.options, parameters.m) == (engine.kind, {"type": "HNSW"}, 32)
    assert report["reached"] and report["ef_search"] == parameters.ef_search
    assert ann.mean_recall(tuned, ITEMS, QUERIES, 10) >= 0.9
    assert report["points"][0]["ef"] == 20  # 2 k: no search is narrower, so no point below is another one
    assert len(engine.names()) == 1
    del tuned
    assert engine.names() == []  # nothing is left behind


def test_where_no_search_of_the_engine_is_wide_enough_the_widest_is_measured() -> None:
    vectors = np.eye(3000, 4, dtype=np.float32)
    collection: Any = SimpleNamespace(
        vectors=vectors,
        database=SimpleNamespace(max_ef=1000),
        search=lambda queries, k, ef: ann.exact(queries, vectors, k),
    )
    choice = remote._choose(collection, vectors[:4], IndexConfig(kind="pgvector", k=600))
    assert (choice.ef_search, choice.reached) == (1000, True)


@on_all
def test_flat_is_exact_and_needs_no_collection(engine: Engine) -> None:
    config = IndexConfig(kind=engine.kind, options={"type": "FLAT"})
    tuned = ann.index_kind(engine.kind).tune(ITEMS, QUERIES, config, COSINE)
    np.testing.assert_array_equal(tuned.search(QUERIES, 7), ann.exact(QUERIES, ITEMS, 7))
    assert engine.names() == []


@on_all
def test_a_server_that_is_not_named_or_not_there_ends_the_export_before_its_work(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = IndexConfig(kind=engine.kind, options={"type": "FLAT"})
    monkeypatch.delenv(engine.variable)
    with pytest.raises(
        ConfigError, match=rf"^{engine.variable}: required for an index of kind {engine.kind}"
    ):
        ann.index_kind(engine.kind).tune(ITEMS, QUERIES, config, COSINE)
    monkeypatch.setenv(engine.variable, NOWHERE[engine.kind])
    with pytest.raises(Unavailable, match=r"does not answer"):
        ann.index_kind(engine.kind).tune(ITEMS, QUERIES, config, COSINE)


@on_all
def test_a_bundle_is_written_with_its_collection_or_not_at_all(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = IndexConfig(kind=engine.kind, options={"type": "FLAT"})
    parameters = bundle.IndexParameters("ip", 16, 200, 64, kind=config.kind, options=config.options)
    made = tiny_bundle(tmp_path / "source", 40, index=parameters)
    monkeypatch.setattr("twinspire.export.bundle_files.BUNDLES", tmp_path / "bundles")

    def make(folder: Path, scratch: Path) -> bundle.Manifest:
        (folder / bundle.REPORTS).rmdir()
        for path in made.iterdir():
            if path.name != bundle.MANIFEST:
                path.rename(folder / path.name)
        return bundle.read_manifest(made)

    with monkeypatch.context() as patched:
        patched.setenv(engine.variable, NOWHERE[engine.kind])
        with pytest.raises(Unavailable):
            write_bundle(make)
    assert [*(tmp_path / "bundles").glob("[!.]*")] == []
    made = tiny_bundle(tmp_path / "again", 40, index=parameters)
    written = write_bundle(make)
    name = collection_name(bundle.read(written).bundle_version)
    assert engine.names() == [name]


@on_all
def test_a_bundle_that_is_reused_gets_its_missing_collection(
    engine: Engine, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("twinspire.export.bundles", "twinspire.export.bundle_files"):
        monkeypatch.setattr(f"{module}.BUNDLES", tmp_path / "bundles")
    monkeypatch.setattr(bundle_builder, "LOCKS", tmp_path / "locks")
    parameters = bundle.IndexParameters("ip", 16, 200, 64, kind=engine.kind, options={"type": "FLAT"})
    measured: Any = {"quality": QUALITY, "parity": PARITY, "ann": ANN, "latency": LATENCY}
    folder = tiny_bundle(tmp_path / "bundles", 40, index=parameters, **measured)
    experiment, tracking = small_experiment(tmp_path), mlflow.MlflowClient()
    tags = {"dataset.fingerprint": "f"}
    run = tracking.create_run(experiment_id(experiment.name), tags=tags)
    key = bundle_builder._fingerprint(experiment, run)[:12]
    tracking.set_tag(run.info.run_id, f"twinspire.bundle.{key}", folder.name)
    dataset: Any = SimpleNamespace(report={"fingerprint": "f"})
    assert bundle_builder.build_bundle(experiment, dataset, run) == (folder, True)
    name = collection_name(bundle.read(folder).bundle_version)
    assert engine.names() == [name]


@pytest.mark.parametrize("kind", REMOTE_KINDS)
@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"options": {"typ": "FLAT"}}, r"options\.typ: expected no other option than type"),
        ({"options": {"type": "IVF"}}, r"options\.type: expected one of HNSW, FLAT, got 'IVF'"),
        ({"options": {"type": "FLAT"}, "m": 8}, r"m: goes with options\.type = \"HNSW\""),
        ({"search": "exact"}, r"search: goes with kind = \"hnsw\""),
    ],
)
def test_a_key_that_would_change_nothing_is_refused(kind: str, keys: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        IndexConfig(kind=kind, **keys)  # type: ignore[arg-type]
