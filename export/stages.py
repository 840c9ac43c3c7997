"""The commands of `python -m export`, each from its arguments to one JSON document."""

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlflow.entities import Run

from export import index, quality, registry, release
from export.assemble import BUNDLES, assemble
from export.backends import onnx_encoder
from export.catalogue import encode_all
from export.history import history as history_of
from export.rollback import rollback as roll_back
from export.towers import FILES, SIDES
from protos import bundle
from protos.documents import parse_json
from protos.errors import BundleDamaged, MissingStage
from protos.vectors import rounded_vectors
from train.command import PROGRESS
from train.config import Experiment, read_experiment
from train.dataset import Dataset, prepare
from train.fit import STAGE as FIT
from train.problem import Problem, problem_of
from train.tracking import connect, find_run, get_run


def make_bundle(arguments: Namespace) -> dict[str, Any]:
    """Export the towers of a run, check and measure them, index the catalogue, write the bundle."""
    connect()
    experiment = read_experiment(arguments.config)
    run = _run(experiment, arguments.run)
    folder, reused = assemble(experiment, _dataset(experiment, arguments), run, PROGRESS)
    return _told(folder) | {"reused": reused}


def evaluate(arguments: Namespace) -> dict[str, Any]:
    """Measure the quality of a bundle on the test split again: its own towers, an index like its own."""
    connect()
    experiment = read_experiment(arguments.config)
    folder, manifest = bundle_of(experiment, arguments.bundle)
    dataset = _dataset(experiment, arguments)
    if dataset.split_hash != manifest.split_hash:
        raise MissingStage(f"{folder}: was made on another split; `make export` makes a new one")
    problem = problem_of(dataset, experiment.query, experiment.item)
    encoders = {side: onnx_encoder(folder / FILES[side], threads=0) for side in SIDES}
    inputs = {side: manifest.schema.side(side) for side in SIDES}
    encoded = encode_all(encoders["item"], inputs["item"], problem.items, PROGRESS, "items")
    items = rounded_vectors(encoded, manifest.precision.vectors, manifest.score.kind != "cosine")
    with PROGRESS.status("search"):
        graph = index.build_as(manifest.index, items, manifest.score, experiment.index.threads)
        model = quality.Searched(encoders["query"], inputs["query"], items, graph, manifest.index)
        metrics = quality.evaluate(experiment, problem, model, manifest.score, PROGRESS)
    return metrics | {"bundle": str(folder)}


def register(arguments: Namespace) -> dict[str, Any]:
    """Put a bundle into the MLflow model registry, as the challenger."""
    connect()
    experiment = read_experiment(arguments.config)
    folder, manifest = bundle_of(experiment, arguments.bundle)
    version, reused = registry.register(folder)
    return {
        "model": f"models:/{manifest.name}/{version.version}",
        "alias": registry.CHALLENGER,
        "bundle_version": manifest.bundle_version,
        "reused": reused,
    }


def promote(arguments: Namespace) -> dict[str, Any]:
    """Make the challenger the champion, if all gates hold."""
    connect()
    experiment = read_experiment(arguments.config)

    def problem() -> Problem:
        return _challengers_problem(experiment, _dataset(experiment, arguments))

    done = release.promote(experiment, problem, PROGRESS, arguments.force, arguments.reason)
    return {
        "model": f"models:/{experiment.name}/{done.version}",
        "alias": registry.CHAMPION,
        "move": done.record and asdict(done.record),
        "decision": done.decision and done.decision.document(),
        "run_id": done.run_id,
    }


def rollback(arguments: Namespace) -> dict[str, Any]:
    """Make the champion before this one the champion again, or the version that is named."""
    connect()
    name = read_experiment(arguments.config).name
    move = roll_back(name, arguments.to, arguments.reason)
    version = move.after if move else arguments.to
    return {
        "model": f"models:/{name}/{version}",
        "alias": registry.CHAMPION,
        "move": move and asdict(move),
    }


def history(arguments: Namespace) -> dict[str, Any]:
    """Print every promotion, refusal and rollback of the champion, and whether the record is whole."""
    connect()
    return history_of(read_experiment(arguments.config).name)


def _dataset(experiment: Experiment, arguments: Namespace) -> Dataset:
    return prepare(experiment, arguments.config.parent, console=PROGRESS)


def _challengers_problem(experiment: Experiment, dataset: Dataset) -> Problem:
    """What the challenger is evaluated on.

    Raises:
        MissingStage: the data have changed since, so that it may be tested on what it was trained on.
    """
    version = registry.by_alias(experiment.name, registry.CHALLENGER)
    split_hash = "" if version is None else version.tags.get("split_hash", "")
    if version is not None and split_hash != dataset.split_hash:
        raise MissingStage(
            f"{experiment.name}: version {version.version} was made on another split of the data "
            f"({split_hash[:12] or 'unknown'}, now {dataset.split_hash[:12]}), so it cannot be evaluated; "
            "train, export and register again"
        )
    return problem_of(dataset, experiment.query, experiment.item)


def _run(experiment: Experiment, run_id: str) -> Run:
    run = get_run(run_id) if run_id else find_run(experiment.name, FIT)
    if run is None:
        raise MissingStage(f"{experiment.name}: nothing is trained yet; `make train` comes first")
    return run


def bundle_of(experiment: Experiment, given: Path | None) -> tuple[Path, bundle.Manifest]:
    """The bundle at a path, or the newest of the experiment."""
    if given is not None:
        return given, bundle.read(given)
    found = sorted(BUNDLES.glob(f"[!.]*/{bundle.MANIFEST}"), key=lambda path: -path.stat().st_mtime)
    for path in found:
        if bundle.read_manifest(path.parent).name == experiment.name:
            return path.parent, bundle.read(path.parent)
    raise MissingStage(f"{experiment.name}: there is no bundle yet; `make export` comes first")


def _told(folder: Path) -> dict[str, Any]:
    """What a bundle says of itself."""
    manifest = bundle.read_manifest(folder)
    return {
        "bundle": str(folder),
        "bundle_version": manifest.bundle_version,
        "run_id": manifest.run_id,
        "items": manifest.count,
        "dimension": manifest.dimension,
        "ef_search": manifest.index.ef_search,
        "quality": manifest.quality,
        "parity": manifest.parity,
        "ann": {k: v for k, v in manifest.ann.items() if k not in ("curve", "grid")},
        "precision": _precision(folder, manifest),
        "latency": {k: v for k, v in manifest.latency.items() if k != "towers"},
        "size_mib": sum(record.size for record in manifest.files.values()) / 2**20,
    }


def _precision(folder: Path, manifest: bundle.Manifest) -> Any:
    """The report on precisions that a bundle lists."""
    name = f"{bundle.REPORTS}/precision.json"
    if name not in manifest.files:
        raise BundleDamaged(f"{folder}: lists no {name}")
    with bundle.open_file(folder, name) as file:
        try:
            return parse_json(file.read())
        except ValueError as error:
            raise BundleDamaged(f"{folder / name}: {error}") from None
