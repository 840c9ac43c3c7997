"""A bundle in MLflow: a logged model of the run that made it, whose files are stored once."""

from pathlib import Path

import mlflow
import pytest
from mlflow.entities import LoggedModel
from mlflow.exceptions import MlflowException

from tests.helpers.releases import NAME, small_bundle
from tests.helpers.stdlib import Made
from twinspire.export.logged_model import figures, log_bundle
from twinspire.export.release import registry
from twinspire.protos import bundle
from twinspire.protos.errors import Unavailable
from twinspire.train.training.tracking import tracked_run


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
