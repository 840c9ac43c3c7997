"""A model as the later stages need it: towers, what they were built from, and the way back from a run."""

import dataclasses
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import torch
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from protos.config import parse
from protos.documents import parse_json
from protos.errors import DataError, MissingStage, Unavailable
from protos.features import Schema, TextFeature
from train.build import build_towers, hashing_of
from train.checkpoint import load_towers
from train.config import Experiment, SequenceTower
from train.corpus import Corpus
from train.hashing import SCHEME
from train.loop import Towers
from train.observer import BEST_TOWERS
from train.problem import Problem
from train.start import schema_of, start_factors, start_forgetting, start_numbers, start_text

ARTIFACTS = "model"
DESCRIPTION = "description.json"


@dataclass(frozen=True)
class Model:
    """Two towers, the experiment they come from, and the schema of their inputs."""

    experiment: Experiment
    schema: Schema
    towers: Towers

    def description(self) -> bytes:
        """Experiment, schema and the way of hashing as JSON, enough to build the towers again."""
        content = {
            "hashing": SCHEME,
            "experiment": dataclasses.asdict(self.experiment),
            "schema": dataclasses.asdict(self.schema),
        }
        return json.dumps(content, indent=2, sort_keys=True).encode()


def start_model(experiment: Experiment, problem: Problem) -> tuple[Model, tuple[Corpus, Corpus]]:
    """A model at its start, and both sides of the data as its towers read them.

    Seeds torch's global generator.
    """
    torch.manual_seed(experiment.training.seed)
    training = problem.training_values()
    counts = dict(zip(problem.item_ids, problem.counts().tolist(), strict=True))
    schema = schema_of(experiment.query, experiment.item, training, counts)
    towers = build_towers(experiment.tower, schema)
    hashing = hashing_of(experiment.tower)
    queries = Corpus(schema, "query", problem.queries, hashing)
    items = Corpus(schema, "item", problem.items, hashing)
    latent = getattr(experiment.tower, "latent", 0)
    start_text(towers, items, latent, experiment.training.seed)
    if isinstance(experiment.tower, SequenceTower):
        start_forgetting(towers[1], schema, counts, experiment.tower.id_dropout_alpha)
        if experiment.tower.latent:
            start_factors(towers, problem, schema, experiment.tower.regularisation)
    for tower, side in zip(towers, ("query", "item"), strict=True):
        start_numbers(tower, side, training)  # type: ignore[arg-type]
    return Model(experiment, schema, towers), (queries, items)


def shares_windows(experiment: Experiment) -> bool:
    """Whether the query tower reads all places of a window at little more cost than the last."""
    return isinstance(experiment.tower, SequenceTower) and experiment.tower.history == "attention"


def restore(run: Run) -> Model:
    """The model that a run's artifacts hold.

    Raises:
        MissingStage: the run holds no model, or one of texts that are no longer hashed as it has learned.
        DataError: its artifacts are damaged.
        Unavailable: it holds a model that cannot be downloaded, or MLflow cannot tell whether it does.
    """
    try:
        uri = f"runs:/{run.info.run_id}/{ARTIFACTS}"
        folder = Path(mlflow.artifacts.download_artifacts(uri))
    except (MlflowException, OSError) as error:
        raise _not_downloaded(run.info.run_id, error) from None
    try:
        content: dict[str, Any] = parse_json((folder / DESCRIPTION).read_bytes())
        experiment = parse(content["experiment"], Experiment)
        schema = parse(content["schema"], Schema)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / DESCRIPTION}: damaged: {error}") from None
    if _reads_text(schema) and content.get("hashing") != SCHEME:
        raise MissingStage(
            f"run {run.info.run_id}: its towers learned from texts that were hashed in another way (scheme "
            f"{content.get('hashing', 'unknown')}, here {SCHEME}); train them again"
        )
    towers = build_towers(experiment.tower, schema)
    load_towers(folder / BEST_TOWERS, towers)
    for tower in towers:
        tower.eval()
    return Model(experiment, schema, towers)


def _not_downloaded(run_id: str, error: Exception) -> MissingStage | Unavailable:
    """Why a model was not downloaded: the run holds none, or it holds one that cannot be had now."""
    try:
        if not mlflow.MlflowClient().list_artifacts(run_id, ARTIFACTS):
            return MissingStage(f"run {run_id}: holds no model ({error}); train one first")
    except (MlflowException, OSError) as listing:
        return Unavailable(f"run {run_id}: its model cannot be listed: {listing}")
    return Unavailable(
        f"run {run_id}: its model cannot be downloaded to {tempfile.gettempdir()}: the disk is full, or the "
        f"artifact store fails ({error})"
    )


def _reads_text(schema: Schema) -> bool:
    features = [*schema.query.values(), *schema.item.values()]
    return any(isinstance(spec, TextFeature) for spec in features)
