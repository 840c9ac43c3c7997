"""The bundle of a run is verified, complete, built once, and a logged model of the run in MLflow."""

import dataclasses
import fcntl
import io
import json
import os
import shutil
import time
import unicodedata
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow.entities import LoggedModel, Run, RunData, RunTag
from mlflow.exceptions import MlflowException

from tests.helpers.releases import NAME, small_bundle
from tests.helpers.stdlib import (
    FEATURES,
    QUICK,
    Made,
    experiment_at,
    make,
    shared_made,
    tracking_copy,
    write_toml,
)
from twinspire.export import bundle_builder
from twinspire.export.benchmark.towers import torch_threads
from twinspire.export.bundle_builder import (
    LOCKS,
    _fingerprint,
    build_bundle,
    known_letters,
)
from twinspire.export.bundles import bundle_of_tag
from twinspire.export.logged_model import figures, log_bundle
from twinspire.export.onnx import parity
from twinspire.export.release import registry
from twinspire.protos import bundle
from twinspire.protos.errors import MissingStage, Unavailable
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.train.data.training_data import training_data_of
from twinspire.train.training.tracking import tracked_run, warnings_of


def test_a_manifest_has_the_measurements(made: Made) -> None:
    manifest = bundle.read(made.folder)
    assert manifest.run_id == made.run.info.run_id
    assert manifest.split_hash == made.dataset.split_hash
    assert manifest.count == made.dataset.items.height
    assert manifest.quality["evaluated_text"] == ["text"]
    told = warnings_of(made.run)
    assert any("differences of a few hundredths are chance" in each for each in told)
    assert manifest.quality["warnings"] == told
    assert manifest.dataset["served_text"] == ["full_text"]
    assert manifest.ann["searched_text"] == ["full_text"]
    assert manifest.unicode == unicodedata.unidata_version
    for prefix in ("", "bm25_"):
        assert 0 < manifest.quality[f"{prefix}recall_at_10"] <= 1
    trained = made.run.data.metrics["test/recall_at_10"]  # in float32; what is served may be rounded
    alone = "recall_at_10" if manifest.hybrid is None else "exact_recall_at_10"
    assert manifest.quality[alone] == pytest.approx(trained, abs=0.02)
    assert manifest.latency["threads"] == 1
    assert manifest.latency["machine"]["cores"]
    for side in ("query", "item"):
        assert manifest.parity[side]["max_abs_diff"] <= manifest.parity[side]["tolerance"]


def test_reports_are_in_the_bundle_and_in_the_run(made: Made) -> None:
    names = {
        f"{name}.json" for name in ("quality", "parity", "precision", "latency", "index", "hybrid", "scores")
    }
    names |= {"per_query.npz", "quality.html"}
    assert {path.name for path in (made.folder / bundle.REPORTS).iterdir()} == names
    client = mlflow.MlflowClient()
    logged = client.list_artifacts(made.run.info.run_id, "export")
    assert {Path(each.path).name for each in logged} == {*names}
    report = json.loads((made.folder / bundle.REPORTS / "latency.json").read_text())
    for key in ("query_tower_b1_p50_us", "item_tower_b32_p50_us", "torch_over_onnx_b1"):
        assert made.run.data.metrics[f"latency/{key}"] == report["metrics"][key]


def test_vectors_are_those_of_the_served_text(made: Made) -> None:
    vectors = np.load(made.folder / bundle.VECTORS)
    retriever = Retriever.load(made.folder)
    (answer,) = retriever.search([Query(item_id=made.dataset.items["item_id"][3])], 5)
    scores = vectors @ vectors[3]
    scores[3] = -2
    assert [hit.score for hit in answer.hits] == pytest.approx(np.sort(scores)[::-1][:5].tolist(), abs=1e-5)


def test_a_tag_with_a_path_is_not_a_bundle(made: Made, tmp_path: Path) -> None:
    outside = shutil.copytree(made.folder, tmp_path / made.folder.name)
    (tag,) = (name for name in made.run.data.tags if name.startswith("twinspire.bundle."))
    assert bundle_of_tag(made.run, tag) == made.folder
    for text in (str(outside), os.path.relpath(outside, made.folder.parent), ".", "..", ""):
        tags = [RunTag(tag, text)]
        run = Run(made.run.info, RunData(tags=tags))
        assert bundle_of_tag(run, tag) is None


def test_a_second_process_waits_for_the_bundle_of_the_first(
    made_once: Made, tmp_path: Path, progress: io.StringIO
) -> None:
    arguments = made_once.experiment, made_once.dataset, made_once.run
    tag = f"twinspire.bundle.{_fingerprint(made_once.experiment, made_once.run)[:12]}"
    with tracking_copy(made_once, tmp_path), ThreadPoolExecutor(1) as pool:
        client, run_id = mlflow.MlflowClient(), made_once.run.info.run_id
        client.delete_tag(run_id, tag)  # as it is while the first makes its bundle
        LOCKS.mkdir(parents=True, exist_ok=True)  # this process may have made no bundle yet
        with (LOCKS / f"{tag}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            second = pool.submit(build_bundle, *arguments)
            until = time.monotonic() + 60
            while "another process is making this bundle" not in progress.getvalue():
                assert time.monotonic() < until and not second.done(), progress.getvalue()
                time.sleep(0.01)
            client.set_tag(run_id, tag, made_once.folder.name)
        assert second.result(60) == (made_once.folder, True)


def test_a_bundle_that_could_not_be_logged_is_not_built_again(
    made_once: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_run = made_once.experiment, made_once.dataset, made_once.run

    def fail(*_: object, **__: object) -> None:
        raise MlflowException("the server is down")

    with tracking_copy(made_once, tmp_path):
        client, run_id = mlflow.MlflowClient(), made_once.run.info.run_id
        (tag,) = (name for name in made_once.run.data.tags if name.startswith("twinspire.bundle."))
        client.delete_tag(run_id, tag)
        for model in mlflow.search_logged_models([made_once.run.info.experiment_id], output_format="list"):
            client.delete_logged_model(model.model_id)
        monkeypatch.setattr(bundle_builder, "write_bundle", lambda make: made_once.folder)
        with monkeypatch.context() as patch, pytest.raises(Unavailable, match="the server is down"):
            patch.setattr(mlflow.MlflowClient, "log_batch", fail)
            build_bundle(*of_run)
        monkeypatch.setattr(bundle_builder, "write_bundle", lambda make: pytest.fail("built again"))
        assert build_bundle(*of_run) == (made_once.folder, True)
        (model,) = mlflow.search_logged_models([made_once.run.info.experiment_id], output_format="list")
        assert model.metrics


def test_a_run_on_other_data_is_refused(made: Made, stdlib: Path, tmp_path: Path) -> None:
    changed: Any = {"data": {"max_items": 100}}
    experiment, dataset = experiment_at(write_toml(stdlib, tmp_path / "a.toml", **changed))
    with pytest.raises(MissingStage, match="was trained on another state of the data"):
        build_bundle(experiment, dataset, made.run)


def test_letters_are_those_of_whole_normalised_texts(made: Made) -> None:
    """A decomposed Hangul syllable is two or three code points, of which the towers see one."""
    data = training_data_of(made.dataset, made.experiment.query, made.experiment.item)
    texts = [unicodedata.normalize("NFD", "한글 é")] * len(data.queries["text"])
    items = {**data.items, "text": ["ﬁ 9!"] * len(data.items["text"])}
    changed = dataclasses.replace(data, queries={**data.queries, "text": texts}, items=items)
    assert known_letters(made.experiment, changed) == "".join(sorted("한글éfi9"))


@pytest.fixture(scope="module")
def features(stdlib: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A run that reads features of every kind, and its bundle."""

    sections = {**FEATURES, **{name: QUICK[name] for name in ("export", "precision", "baselines")}}
    return shared_made(
        tmp_path_factory, "features", lambda folder: make(stdlib, empty_store, folder, "features", sections)
    )


@pytest.mark.exhaustive
def test_a_bundle_is_built_once_and_again_if_damaged(
    features: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, threads = (features.experiment, features.dataset, features.run), set[int]()

    def check(*compared: Any, check: Any = parity.check) -> Any:
        threads.add(torch.get_num_threads())
        return check(*compared)

    monkeypatch.setattr(parity, "check", check)
    vectors = features.folder / bundle.VECTORS
    content = vectors.read_bytes()
    with tracking_copy(features, tmp_path):
        assert build_bundle(*arguments) == (features.folder, True)
        vectors.write_bytes(content[:-1])
        for prefix in (".making-", ".bundle-"):  # of processes that were killed
            (features.folder.parent / f"{prefix}0123456789ab" / "variants").mkdir(parents=True)
            (features.folder.parent / f"{prefix}0123456789ab.lock").touch()
        try:
            with torch_threads(2):
                folder, reused = build_bundle(*arguments)
                assert torch.get_num_threads() == 2
        finally:
            vectors.write_bytes(content)
        assert not reused
        assert threads == {features.experiment.export.threads} == {1}
        manifest = bundle.read(folder)
        assert manifest.run_id == features.run.info.run_id
        assert manifest.quality["bm25_recall_at_10"] == features.metrics["bm25_recall_at_10"]
        run = mlflow.get_run(features.run.info.run_id)
        assert build_bundle(features.experiment, features.dataset, run) == (folder, True)
    left = [path.name for path in folder.parent.iterdir() if path.name.startswith((".making-", ".bundle-"))]
    assert left == []  # other hidden files are those of services on the same bundles


@pytest.mark.exhaustive
def test_features_of_every_kind_are_served(features: Made, tmp_path: Path) -> None:
    manifest = bundle.read(features.folder)
    assert {*manifest.examples[-1]} == {"text", "level", "terms", "words"}
    assert manifest.schema.vocabularies.keys() == {
        "query.level", "query.terms", "item.package", "item.parts"
    }  # fmt: skip
    retriever = Retriever.load(features.folder)
    known: dict[str, Any] = {"level": "long", "terms": ("configuration",), "words": 9.0}
    text = "read a configuration file"
    plain, full = retriever.search([Query(text), Query(text, features=known)], 10)
    assert len(plain.hits) == len(full.hits) == 10
    assert [hit.score for hit in plain.hits] != [hit.score for hit in full.hits]
    with tracking_copy(features, tmp_path), warnings.catch_warnings(record=True):  # MLflow lifts every filter
        version, _ = registry.register(features.folder)
        model = mlflow.pyfunc.load_model(f"models:/features/{version.version}")
        record = {"text": text, **known, "terms": ["configuration"]}
        answers = model.predict([text, record], params={"k": 10})
    # Equal bits: both are one batch of two, in the same process. There are no priors.
    given = [
        [{**hit._asdict(), "basis": "query", "weak": answer.weak} for hit in answer.hits]
        for answer in (plain, full)
    ]
    assert [hit.pop("prior") for hits in given for hit in hits] == [None] * 20
    assert answers == given


def models(experiment: str) -> list[LoggedModel]:
    return mlflow.search_logged_models([experiment], output_format="list")


def files(folder: Path, name: str) -> list[Path]:
    return [path for path in folder.rglob(name) if path.is_file()]


def test_an_export_leaves_a_logged_model_that_bundles_are_compared_by(made: Made) -> None:
    (model,) = models(made.run.info.experiment_id)
    manifest = bundle.read_manifest(made.folder)
    assert model.name == f"stdlib-{made.folder.name}"
    assert model.source_run_id == made.run.info.run_id
    assert model.params is not None
    assert model.params["tower.kind"] == "bag"
    assert model.metrics is not None
    assert {each.key: each.value for each in model.metrics} == figures(manifest)
    assert {each.dataset_name for each in model.metrics} == {"stdlib"}
    assert made.run.inputs is not None
    (given,) = made.run.inputs.dataset_inputs
    assert {each.dataset_digest for each in model.metrics} == {given.dataset.digest}
    outputs = made.run.outputs
    assert outputs is not None
    assert [each.model_id for each in outputs.model_outputs] == [model.model_id]
    assert models("0") == []


def test_a_registered_version_points_to_the_model_of_the_export(store: str, tmp_path: Path) -> None:
    with tracked_run(NAME, "fit", "0") as run_id:
        pass
    run = mlflow.get_run(run_id)
    artifacts = Path(run.info.artifact_uri.removeprefix("file://")).parents[1]
    folder = small_bundle(tmp_path, "a", run_id=run_id)
    log_bundle(folder, run_id)
    (exported,) = models(run.info.experiment_id)
    assert files(artifacts, "vectors.npy") == []
    version, _ = registry.register(folder)
    (model,) = models(run.info.experiment_id)
    assert model.model_id == exported.model_id
    assert version.source == f"models:/{model.model_id}"
    assert version.run_id == run_id
    assert "mlflow.model.isExternal" not in model.tags
    assert len(files(artifacts, "vectors.npy")) == 1
    outputs = mlflow.get_run(run_id).outputs
    assert outputs is not None
    assert [each.model_id for each in outputs.model_outputs] == [model.model_id]


def test_the_name_of_an_experiment_may_have_dots(store: str, tmp_path: Path) -> None:
    with tracked_run("shop.v2", "fit", "0") as run_id:
        pass
    folder = small_bundle(tmp_path, "a", run_id=run_id, name="shop.v2")
    version, _ = registry.register(folder)
    (model,) = models(mlflow.get_run(run_id).info.experiment_id)
    assert (version.name, model.name) == ("shop.v2", f"shop-v2-{folder.name}")


@pytest.mark.parametrize("step", ["log_outputs", "log_batch"])
def test_a_model_that_an_error_has_left_half_made_is_completed(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    with tracked_run(NAME, "fit", "0") as run_id:
        pass
    folder = small_bundle(tmp_path, "a", run_id=run_id)

    def fail(*_: object, **__: object) -> None:
        raise MlflowException("the server is down")

    with monkeypatch.context() as patch, pytest.raises(Unavailable, match="the server is down"):
        patch.setattr(mlflow.MlflowClient, step, fail)
        log_bundle(folder, run_id)
    log_bundle(folder, run_id)
    run = mlflow.get_run(run_id)
    (model,) = models(run.info.experiment_id)
    assert model.metrics is not None and run.outputs is not None
    assert {each.key: each.value for each in model.metrics} == figures(bundle.read_manifest(folder))
    assert [each.model_id for each in run.outputs.model_outputs] == [model.model_id]
    assert str(model.status) == "READY"


@pytest.mark.parametrize("dataset", [{"name": "shop"}, {"fingerprint": "0" * 64}, {}])
def test_figures_of_a_data_set_without_a_name_or_a_digest_are_logged(
    store: str, tmp_path: Path, dataset: dict[str, str]
) -> None:
    with tracked_run(NAME, "fit", "0") as run_id:
        pass
    log_bundle(small_bundle(tmp_path, "a", run_id=run_id, dataset=dataset), run_id)
    (model,) = models(mlflow.get_run(run_id).info.experiment_id)
    assert {each.dataset_name for each in model.metrics or ()} == {None}
