"""A model: the two towers with their experiment and schema; built from data, or loaded from a run."""

import dataclasses
import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import torch
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from twinspire.protos.documents import parse_json
from twinspire.protos.errors import DataError, MissingStage, Unavailable
from twinspire.protos.features import Schema
from twinspire.protos.toml_config import parse
from twinspire.train.config import Experiment
from twinspire.train.config.losses import learns_from_negatives
from twinspire.train.data.training_data import TrainingData, has_text
from twinspire.train.models.initialization import build_schema, fit_number_encoders
from twinspire.train.models.prepared_inputs import PreparedInputs
from twinspire.train.models.text_hashing import HASHING_VERSION
from twinspire.train.models.tower_factory import (
    Report,
    Towers,
    architecture_of,
    silent,
)
from twinspire.train.models.warm_start import start_from
from twinspire.train.training.additions import drop_useless_coordinates
from twinspire.train.training.checkpoint import BEST_TOWERS, load_towers
from twinspire.train.training.process import SINGLE_PROCESS, TrainingProcess
from twinspire.train.training.trainer import Trainer

ARTIFACTS = "model"
DESCRIPTION = "description.json"


@dataclass(frozen=True)
class Model:
    """Query tower and item tower, with their experiment and the schema of their inputs.

    Args:
        start: the trained model with whose weights this one began, if there is one.
    """

    experiment: Experiment
    schema: Schema
    towers: Towers
    start: "Model | None" = None

    def description(self) -> bytes:
        """Experiment, schema and hashing scheme as JSON: what `load_model` builds the towers from."""
        content = {
            "hashing": HASHING_VERSION,
            "experiment": settings_without_passwords(self.experiment),
            "schema": dataclasses.asdict(self.schema),
        }
        return json.dumps(content, indent=2, sort_keys=True).encode()


def settings_without_passwords(experiment: Experiment) -> dict[str, Any]:
    """All settings, for records; a password in the URL of a store of events is `***`."""
    settings = dataclasses.asdict(experiment)
    url = str(settings["data"].get("events", ""))
    if "://" in url:
        hidden = re.sub(r"(://[^:/@]*:).*@", r"\1***@", url)
        settings["data"]["events"] = re.sub(r"([?&]password=)[^&]*", r"\1***", hidden)
    return settings


def build_model(
    experiment: Experiment,
    data: TrainingData,
    report: Report = silent,
    process: TrainingProcess = SINGLE_PROCESS,
    start: Model | None = None,
) -> tuple[Model, tuple[PreparedInputs, PreparedInputs]]:
    """An untrained model, and the encoded queries and items.

    Seeds torch's global generator.

    Args:
        experiment: with every key set, see `from_data`.
        data: as these features read them, see `TrainingData.as_read_by`.
        report: receives lines about the progress where that takes long.
        process: on whose device the towers are, and their start is computed. Random weights are drawn on the
            CPU, so they are the same on all devices.
        start: a trained model of the same features and architecture, with whose weights the towers begin.
    """
    torch.manual_seed(experiment.training.seed)
    training = data.training_values()
    of_all_pairs = data.counts(learns_from_negatives(experiment.loss)).tolist()
    counts = dict(zip(data.item_ids, of_all_pairs, strict=True))
    schema = build_schema(experiment.query, experiment.item, training, counts)
    schema = schema.in_folder(experiment.tower.features_folder)
    architecture = architecture_of(experiment.tower, report, process.place)
    towers = architecture.build(schema)
    process.place_towers(towers)
    queries = architecture.prepare(schema, "query", data.queries)
    items = architecture.prepare(schema, "item", data.items)
    architecture.initialize(towers, schema, data, (queries, items), experiment.training.seed)
    for tower, side in zip(towers, ("query", "item"), strict=True):
        fit_number_encoders(tower, side, training)  # type: ignore[arg-type]
    if start is not None:
        start_from(towers, schema, (start.towers, start.schema), data, items, architecture)
    return Model(experiment, schema, towers, start), (queries, items)


def model_and_trainer(
    experiment: Experiment,
    data: TrainingData,
    process: TrainingProcess,
    start: Model | None = None,
    report: Report = silent,
) -> tuple[Model, Trainer, str]:
    """An untrained model, its trainer, and a warning if no linear model applies to the data; else `""`.

    Arguments are those of `build_model`.
    """
    model, prepared = build_model(experiment, data, report, process, start)
    warning = drop_useless_coordinates(model.towers, experiment, data)
    shared = architecture_of(experiment.tower).shares_windows
    trainer = Trainer(model.towers, data, prepared, experiment.loss, experiment.training, shared, process)
    return model, trainer, warning


def load_model(run: Run) -> Model:
    """The model that is stored with a run.

    Raises:
        MissingStage: the run holds no model, or one that was trained with another hashing scheme.
        DataError: the stored files are damaged, or name keys that this version of the program does not know.
        Unavailable: the model cannot be downloaded, or MLflow cannot say whether there is one.
    """
    try:
        uri = f"runs:/{run.info.run_id}/{ARTIFACTS}"
        folder = Path(mlflow.artifacts.download_artifacts(uri))
    except (MlflowException, OSError) as error:
        raise _download_error(run.info.run_id, error) from None
    try:
        content: dict[str, Any] = parse_json((folder / DESCRIPTION).read_bytes())
        if not content["experiment"]["split"].get("test_file"):  # of runs from before that key was removed
            content["experiment"]["split"].pop("test_file", None)
        experiment = parse(content["experiment"], Experiment)
        schema = parse(content["schema"], Schema)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"damaged, or of another version of this program: {error}"
        raise DataError(f"{folder / DESCRIPTION}: {why}; train again") from None
    reads_text = has_text(schema.query) or has_text(schema.item)
    if reads_text and content.get("hashing") != HASHING_VERSION:
        raise MissingStage(
            f"run {run.info.run_id}: its towers were trained with another text hashing scheme ("
            f"{content.get('hashing', 'unknown')}, now {HASHING_VERSION}); train them again"
        )
    schema = schema.in_folder(folder)
    towers = architecture_of(experiment.tower).build(schema)
    load_towers(folder / BEST_TOWERS, towers)
    for tower in towers:
        tower.eval()
    return Model(experiment, schema, towers)


def _download_error(run_id: str, error: Exception) -> MissingStage | Unavailable:
    """Why a model was not downloaded: the run holds none, or the model cannot be downloaded now."""
    try:
        if not mlflow.MlflowClient().list_artifacts(run_id, ARTIFACTS):
            return MissingStage(f"run {run_id}: holds no model ({error}); train one first")
    except (MlflowException, OSError) as listing:
        return Unavailable(f"run {run_id}: its model cannot be listed: {listing}")
    return Unavailable(
        f"run {run_id}: its model cannot be downloaded to {tempfile.gettempdir()}: the disk is full, or the "
        f"artifact store fails ({error})"
    )
