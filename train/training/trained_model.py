"""A model: the two towers with their experiment and schema; built from data, or loaded from a run.

Towers may begin with the weights of trained ones, whose vocabularies may be others (`start_from`). A row of
an embedding table moves with its value, and a value that the trained towers do not know begins with their row
of unknown ones. A new item id begins where the trained item tower places the item by its content
(`train/models/cold_start.py`). Parts that the end of a run fits anew, such as a linear model beside the
towers, stay as they are.
"""

import dataclasses
import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import mlflow
import numpy as np
import torch
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from torch import Tensor

from twinspire.protos.documents import parse_json
from twinspire.protos.errors import DataError, MissingStage, Unavailable
from twinspire.protos.features import (
    FIRST_KNOWN,
    ITEM_VOCABULARY,
    SIDES,
    UNKNOWN,
    CategoryFeature,
    FeatureSpec,
    HistoryFeature,
    IdFeature,
    Schema,
    Side,
)
from twinspire.protos.toml_config import parse
from twinspire.train.config import Experiment
from twinspire.train.config.losses import learns_from_negatives
from twinspire.train.data.training_data import TrainingData, has_text
from twinspire.train.models.architectures.clicks import FeedbackEncoder
from twinspire.train.models.encoders import CategoryEncoder, HashedTextEncoder
from twinspire.train.models.initialization import fit_number_encoders
from twinspire.train.models.placement import to_device_of_module
from twinspire.train.models.prepared_inputs import PreparedInputs
from twinspire.train.models.sequence_encoders import IdEncoder
from twinspire.train.models.text_hashing import HASHING_VERSION
from twinspire.train.models.tower_factory import (
    Architecture,
    Report,
    Towers,
    architecture_of,
    silent,
)
from twinspire.train.models.towers import PARTS, Tower
from twinspire.train.training.blending import drop_useless_coordinates
from twinspire.train.training.checkpoint import BEST_TOWERS, load_towers
from twinspire.train.training.process import SINGLE_PROCESS, TrainingProcess
from twinspire.train.training.trainer import Trainer

ARTIFACTS = "model"
DESCRIPTION = "description.json"
NEWCOMERS = "newcomers"  # the content fallback of a tower


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


def build_schema(
    query: dict[str, FeatureSpec],
    item: dict[str, FeatureSpec],
    training: Mapping[Side, Mapping[str, Sequence[Any]]],
    items: Mapping[str, int],
) -> Schema:
    """The features with their vocabularies from the training rows, most frequent values first.

    Args:
        training: side -> feature name -> raw values of the training rows.
        items: item id -> its training interactions.
    """
    vocabularies: dict[str, tuple[str, ...]] = {}
    specs = [*query.values(), *item.values()]
    if any(isinstance(spec, IdFeature | HistoryFeature) for spec in specs):
        min_count = min((spec.min_count for spec in item.values() if isinstance(spec, IdFeature)), default=1)
        ranked = sorted(items.items(), key=lambda entry: (-entry[1], entry[0]))
        vocabularies[ITEM_VOCABULARY] = tuple(each for each, count in ranked if count >= min_count)
    sides: dict[Side, dict[str, FeatureSpec]] = {"query": query, "item": item}
    for side, features in sides.items():
        for name, spec in features.items():
            if isinstance(spec, CategoryFeature):
                vocabularies[f"{side}.{name}"] = _vocabulary(training[side][name], spec)
    return Schema(query, item, vocabularies)


def _vocabulary(values: Sequence[Any], spec: CategoryFeature) -> tuple[str, ...]:
    lists = values if spec.multi else [[value] for value in values]
    counts = Counter(value for each in lists for value in each or () if value is not None)
    ranked = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return tuple(value for value, count in ranked if count >= spec.min_count)


def start_from(
    towers: Towers,
    schema: Schema,
    trained: tuple[Towers, Schema],
    data: TrainingData,
    items: PreparedInputs,
    architecture: Architecture[Any],
) -> None:
    """Give towers the weights of trained ones.

    Args:
        towers: of the same architecture and features, on any device.
        trained: towers and their schema.
        data: whose items `items` are, as `schema` encodes them.
    """
    others, known = trained
    with torch.no_grad():
        for side, tower, other in zip(SIDES, towers, others, strict=True):
            _copy(side, tower, schema, other, known)
        new = {*schema.vocabularies.get(ITEM_VOCABULARY, ())} - {*known.vocabularies.get(ITEM_VOCABULARY, ())}
        rows = np.array([row for row, each in enumerate(data.item_ids) if each in new], np.int64)
        item, other = towers[1], others[1]
        ids = dict(item.encoders.items()).get(item.id_name)
        if not len(rows) or other.newcomers is None or not isinstance(ids, IdEncoder):
            return
        values = {name: [column[row] for row in rows] for name, column in data.items.items()}
        unknown = architecture.prepare(known, "item", values).batch(np.arange(len(rows)))
        unknown = to_device_of_module(unknown, other)
        known_rows = cast(Tensor, unknown[other.id_name])
        content = other.newcomers(unknown, known_rows, other.encode_features(unknown))
        batch = to_device_of_module(items.batch(rows), item)
        places = cast(Tensor, batch[item.id_name])[:, 0]
        ids.table[places] = 0
        ids.table[places] = content.to(ids.table) - item.encode_features(batch)


def _copy(side: Side, tower: Tower, schema: Schema, other: Tower, known: Schema) -> None:
    """Copy all weights of one tower, rows of tables by their values."""
    vocabulary_of = dict(_tables(side, tower))
    source = other.state_dict()
    skipped = tuple(f"{part}." for part in (*PARTS, NEWCOMERS))
    for name, own in tower.state_dict().items():
        given = source.get(name)
        if given is None or name.startswith(skipped):
            continue
        if name in vocabulary_of:
            key = vocabulary_of[name]
            row_of = {value: row for row, value in enumerate(known.vocabularies[key], FIRST_KNOWN)}
            moved = [row_of.get(value, UNKNOWN) for value in schema.vocabularies[key]]
            given = given[[*range(FIRST_KNOWN), *moved]]
        if given.shape == own.shape:
            own.copy_(given)


def _tables(side: Side, tower: Tower) -> Iterator[tuple[str, str]]:
    """Name of a weight whose rows are values -> the key of their vocabulary."""
    for name, module in tower.named_modules():
        if isinstance(module, CategoryEncoder):
            yield f"{name}.embedding.weight", f"{side}.{name.rpartition('.')[2]}"
        elif isinstance(module, FeedbackEncoder):
            yield from ((f"{name}.tables.{each}", ITEM_VOCABULARY) for each in module.tables)
        elif not isinstance(module, HashedTextEncoder) and hasattr(module, "table"):
            yield f"{name}.table", ITEM_VOCABULARY


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
