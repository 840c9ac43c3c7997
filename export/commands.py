"""The commands `bundle` and `evaluate` of `python -m twinspire.export`.

Each takes the experiment and the arguments, and returns one JSON document. `__main__.py` says where the other
commands are.
"""

from argparse import Namespace
from pathlib import Path
from typing import Any

from mlflow.entities import Run

from twinspire.export.bundle_builder import build_bundle
from twinspire.export.bundles import find_bundle, why_not_comparable
from twinspire.export.evaluation import quality
from twinspire.export.served_model import served_model
from twinspire.protos import bundle
from twinspire.protos.documents import parse_json
from twinspire.protos.errors import BundleDamaged, MissingStage
from twinspire.train.config import Experiment
from twinspire.train.data.dataset import Dataset, prepare
from twinspire.train.data.training_data import data_of_kept_towers
from twinspire.train.evaluation.ranking import BaselineFitter
from twinspire.train.progress import PROGRESS
from twinspire.train.training.run import STAGE as FIT
from twinspire.train.training.run import choices_of, finished_run
from twinspire.train.training.tracking import find_run, get_run


def make_bundle(experiment: Experiment, arguments: Namespace) -> dict[str, Any]:
    """Export the towers of a run, measure them, build the index, and write the bundle."""
    newest = _run(experiment, arguments.run)  # before the data, which can take minutes to read
    dataset = _dataset(experiment, arguments)
    run = newest if arguments.run else _run_of_settings(experiment, dataset, newest)
    folder, reused = build_bundle(experiment, dataset, run)
    return _summary(folder) | {"reused": reused}


def evaluate(experiment: Experiment, arguments: Namespace) -> dict[str, Any]:
    """Measure a bundle on test split and judged queries again, by its towers and terms."""
    folder, manifest = find_bundle(experiment, arguments.bundle)
    dataset = _dataset(experiment, arguments)
    if why := why_not_comparable(manifest, dataset.split_hash, dataset.report):
        raise MissingStage(f"{folder}: does not fit the data set: {why}; `make export` makes a new one")
    try:
        choices = choices_of(get_run(manifest.run_id), experiment, dataset, _note)
    except MissingStage:  # MLflow does not know the run
        choices = None
    experiment = experiment.with_features(manifest.schema)
    data = data_of_kept_towers(dataset, experiment)
    model = served_model(folder, manifest, data)
    with PROGRESS.status("search"):
        fitter = BaselineFitter(experiment, data, stored=choices)
        metrics, *_ = quality.evaluate(fitter, model, manifest.score, manifest.quality)
    if data.judged is not None:
        served = data.as_served()
        if data.serves_other_texts:
            model = served_model(folder, manifest, served)
        with PROGRESS.status("search, judged queries"):
            fitter = BaselineFitter(experiment, served, stored=choices)
            metrics |= quality.evaluate_judged_queries(fitter, model, data.judged.query)
    return metrics | {"bundle": str(folder)}


def _dataset(experiment: Experiment, arguments: Namespace) -> Dataset:
    return prepare(experiment, arguments.config.parent, console=PROGRESS)


def _run(experiment: Experiment, run_id: str) -> Run:
    run = get_run(run_id) if run_id else find_run(experiment.name, FIT)
    if run is None:
        raise MissingStage(f"{experiment.name}: nothing is trained yet; `make train` comes first")
    return run


def _run_of_settings(experiment: Experiment, dataset: Dataset, newest: Run) -> Run:
    """The run that `train fit` would reuse; the newest, with a note on the console, if there is none."""
    same = finished_run(experiment, dataset)
    if same is not None:
        return same
    _note(
        f"exporting {newest.info.run_name}, the newest run ({newest.info.run_id}), whose settings, "
        "data or code differ from those of now; `make train` trains with these"
    )
    return newest


def _note(text: str) -> None:
    """Print a line on the console of progress, without line breaks."""
    PROGRESS.print(text, soft_wrap=True)


def _summary(folder: Path) -> dict[str, Any]:
    """The main facts of a bundle's manifest."""
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
        "ann": {k: v for k, v in manifest.ann.items() if k != "curve"},
        "precision": _report(folder, manifest, "precision"),
        "hybrid": _report(folder, manifest, "hybrid"),
        "scores": _report(folder, manifest, "scores"),
        "latency": {k: v for k, v in manifest.latency.items() if k != "towers"},
        "size_mib": manifest.size_mib,
    }


def _report(folder: Path, manifest: bundle.Manifest, report: str) -> Any:
    """A report in a bundle, by its name."""
    name = f"{bundle.REPORTS}/{report}.json"
    if name not in manifest.files:
        raise BundleDamaged(f"{folder}: lists no {name}")
    with bundle.open_file(folder, name) as file:
        try:
            return parse_json(file.read())
        except ValueError as error:
            raise BundleDamaged(f"{folder / name}: {error}") from None
