"""The command `bench` of export: measures a bundle and compares it with budgets and an earlier bench.

It writes JSON, a page and plots, and logs them as an MLflow run. It fails after that where a budget of
`[bench]` is broken.
"""

from argparse import Namespace
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow

from twinspire.export.benchmark import BENCH_PARTS, comparison, index, report, retriever, towers
from twinspire.export.benchmark.figures import Figures, MeasuredBundle
from twinspire.export.bundles import find_bundle
from twinspire.protos.bundle import EXACT, HNSW, REPORTS
from twinspire.protos.cli import UsageError
from twinspire.protos.errors import GateRefused
from twinspire.protos.mlflow_keys import BUNDLE_VERSION
from twinspire.train.config import read_experiment
from twinspire.train.data.dataset import prepare
from twinspire.train.data.training_data import TrainingData, training_data_of
from twinspire.train.paths import CACHE
from twinspire.train.progress import PROGRESS
from twinspire.train.training.tracking import connect, log_metrics, tracked_run

Document = dict[str, Any]


# Each has `names(bundle)`, those of all its figures, which are known before it is measured, and
# `measure(bundle, figures)`, which adds the figures and returns what else is reported.
PARTS: dict[str, Any] = dict(zip(BENCH_PARTS, (towers, retriever, index), strict=True))


def bench(arguments: Namespace) -> Document:
    """Measure a bundle (towers, retriever, index), and compare it with the previous bench."""
    connect()
    experiment = read_experiment(arguments.config)

    folder, manifest = find_bundle(experiment, arguments.bundle)

    def data() -> TrainingData:
        dataset = prepare(experiment, arguments.config.parent, console=PROGRESS)
        read = training_data_of(dataset, experiment.query, experiment.item)
        return read.as_read_by(manifest.schema.query)

    output = arguments.output or CACHE / "bench" / manifest.bundle_version[:12]
    return run(MeasuredBundle(folder, manifest, experiment, data), arguments.only, output)


def run(bundle: MeasuredBundle, only: Collection[str], output: Path) -> Document:
    """Measure some parts, write into the folder `output`, log, and compare with the budgets.

    Raises:
        UsageError: a part cannot be measured, because the index is not one of hnswlib.
        ConfigError: a budget is of no figure of this bench.
        GateRefused: a budget is broken; everything has been written.
    """
    kind = bundle.manifest.index.kind
    if kind not in (HNSW, EXACT) and "index" in only:
        raise UsageError(
            f"{bundle.folder}: its index is of kind {kind!r}, and the part index is measured beside hnswlib; "
            "leave it out with --only towers retriever (make bench ONLY=towers,retriever). The export has "
            f"measured the index: {bundle.folder / REPORTS / 'index.json'}"
        )
    names = {name: part.names(bundle) for name, part in PARTS.items()}
    comparison.check_names(bundle.experiment.bench.budgets, set().union(*names.values()))
    before = comparison.find(bundle.experiment.name, bundle.manifest.name)
    figures = Figures()
    parts = {name: part.measure(bundle, figures) for name, part in PARTS.items() if name in only}
    left_out = set().union(*(names[name] for name in PARTS if name not in only))
    judged = comparison.judge(bundle.experiment.bench.budgets, figures.metrics, left_out)
    document = report.document_of(bundle, figures, parts, judged, before)
    part_of = {figure: part for part, known in names.items() for figure in known}
    grouped = {  # such as `towers/torch_over_onnx_b1`
        f"{part_of.get(name, comparison.STAGE)}/{name}": value for name, value in figures.metrics.items()
    }
    run_id = _log(bundle, grouped, report.write(document, output))
    document |= {"report": str(output / report.PAGE), "run_id": run_id}
    broken = [each.text for each in judged if not each.holds]
    if broken:
        report.show(document, PROGRESS)
        raise GateRefused(f"{'; '.join(broken)}; see {output / report.PAGE}")
    return document


def _log(bundle: MeasuredBundle, metrics: Mapping[str, float], files: Sequence[Path]) -> str:
    """Log an MLflow run, after all measurements; returns its id."""
    key = comparison.comparison_key(bundle.manifest.name)
    with tracked_run(bundle.experiment.name, comparison.STAGE, key) as run_id:
        client = mlflow.MlflowClient()
        client.set_tag(run_id, BUNDLE_VERSION, bundle.manifest.bundle_version)
        log_metrics(run_id, metrics)
        for path in files:
            client.log_artifact(run_id, str(path), comparison.ARTIFACTS)
    return run_id
