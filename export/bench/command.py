"""The command that measures a bundle: towers, retriever and index.

    python -m export bench --config train/configs/pydocs.toml --only towers --output /tmp/bench

It writes JSON, a page and plots, logs them as an MLflow run of its own, compares with the run before on the
same machine, and fails, after all that, where a budget of `[bench]` is broken.
"""

import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Metric

from export.bench import budgets, index, previous, report, retriever, tables, towers
from export.bench.figures import SERVED, Figures, figures_of, tower_names
from export.bench.plan import main_kind, plan
from export.bench.subject import SIZE_SHARES, Subject, forms_of, size_shares
from export.precision import VARIANTS
from export.stages import bundle_of
from protos.errors import GateRefused
from protos.mlflow_names import BUNDLE_VERSION
from train.command import PROGRESS
from train.config import Experiment, read_experiment
from train.config.bench import BenchConfig
from train.dataset import prepare
from train.places import CACHE
from train.problem import Problem, problem_of
from train.tracking import connect, tracked

PARTS = ("towers", "retriever", "index")
AT_ONCE = 1000  # metrics that MLflow takes in one call

Document = dict[str, Any]


def add_options(command: ArgumentParser) -> None:
    """The options of the command, beside those that all have and `--bundle`."""
    command.add_argument(
        "--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure (default: all)"
    )
    command.add_argument("--output", type=Path, help="folder of the report (default: in the cache)")


def bench(arguments: Namespace) -> Document:
    """Measure a bundle: towers in torch and ONNX Runtime, retriever, index; compare with the run before."""
    connect()
    experiment = read_experiment(arguments.config)
    subject = Subject(*bundle_of(experiment, arguments.bundle))

    def problem() -> Problem:
        dataset = prepare(experiment, arguments.config.parent, console=PROGRESS)
        return problem_of(dataset, experiment.query, experiment.item)

    output = arguments.output or CACHE / "bench" / subject.manifest.bundle_version[:12]
    return run(experiment, experiment.bench, subject, problem, arguments.only, output)


def run(
    experiment: Experiment,
    config: BenchConfig,
    subject: Subject,
    problem: Callable[[], Problem],
    only: Collection[str],
    output: Path,
) -> Document:
    """Measure, write, log, and judge.

    Args:
        problem: gives the data; called only where the towers are measured.
        only: the parts to measure.
        output: receives the files.

    Raises:
        ConfigError: a budget is of no figure of this bench.
        GateRefused: a budget is broken; everything has been written by then.
    """
    names = _names(subject, config)
    budgets.check_names(config.budgets, set().union(*names.values()))
    before = previous.find(experiment.name, subject.manifest.name)
    figures, parts = _measure(experiment, config, subject, problem, only)
    left_out = {name for part in PARTS if part not in only for name in names[part]}
    judged = budgets.judge(config.budgets, figures.metrics, left_out)
    document = report.document_of(subject, figures, parts, judged, before)
    written = report.write(document, output)
    run_id = _log(experiment, subject, figures, written)
    document |= {"report": str(output / report.PAGE), "run_id": run_id}
    broken = [each.text() for each in judged if not each.holds]
    if broken:
        tables.show(document, PROGRESS)
        raise GateRefused(f"{'; '.join(broken)}; see {output / report.PAGE}")
    return document


def _names(subject: Subject, config: BenchConfig) -> dict[str, set[str]]:
    """Part -> the names of all figures that it gives."""
    backends = {towers.TORCH, towers.EXPORTED, SERVED, *VARIANTS}
    backends |= {towers.COMPILED} if config.compiled else set()
    schema = subject.manifest.schema
    own = tower_names(plan(config, schema), backends, SERVED, main_kind(schema.query))
    own |= set(SIZE_SHARES.values())
    return {"towers": own, "retriever": retriever.names(), "index": set(index.NAMES)}


def _measure(
    experiment: Experiment,
    config: BenchConfig,
    subject: Subject,
    problem: Callable[[], Problem],
    only: Collection[str],
) -> tuple[Figures, Document]:
    figures, parts = Figures(), Document()
    folder, manifest = subject.folder, subject.manifest
    if "towers" in only:
        parts["towers"] = _towers(experiment, config, subject, problem(), figures)
    if "retriever" in only:
        with PROGRESS.status("retriever beside its bare parts, and load time"):
            parts["retriever"], found = retriever.measure(folder, config)
        figures.add_all(found)
    if "index" in only:
        threads = experiment.index.threads
        parts["index"], found = index.measure(folder, manifest, threads, config, PROGRESS)
        figures.add_all(found)
    return figures, parts


def _towers(
    experiment: Experiment, config: BenchConfig, subject: Subject, problem: Problem, figures: Figures
) -> Document:
    kind = main_kind(subject.manifest.schema.query)
    with tempfile.TemporaryDirectory(prefix="twinspire-bench-") as scratch:
        with PROGRESS.status("exporting both towers in every precision, and without rewrites"):
            forms = forms_of(subject, problem, experiment.precision, Path(scratch))
        figures.metrics.update(size_shares(forms))
        cells = plan(config, subject.manifest.schema)
        measured = towers.measure(cells, forms, config, PROGRESS)
    figures.add_all(figures_of(measured.cells, SERVED, kind, config.seed))
    return report.towers_part(measured, kind, config.seed)


def _log(experiment: Experiment, subject: Subject, figures: Figures, files: Sequence[Path]) -> str:
    """An MLflow run of its own, made once nothing is timed any more; gives its id."""
    with tracked(experiment.name, previous.STAGE, previous.subject(subject.manifest.name)) as run_id:
        client, now = mlflow.MlflowClient(), time.time_ns() // 1_000_000
        client.set_tag(run_id, BUNDLE_VERSION, subject.manifest.bundle_version)
        metrics = [Metric(name, value, now, 0) for name, value in figures.metrics.items()]
        for at in range(0, len(metrics), AT_ONCE):
            client.log_batch(run_id, metrics=metrics[at : at + AT_ONCE])
        for path in files:
            client.log_artifact(run_id, str(path), previous.ARTIFACTS)
    return run_id
