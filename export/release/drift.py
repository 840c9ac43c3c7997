"""Says whether a service's queries, answers and items are still like those that its champion was made from.

    python -m twinspire.export drift --config C --served-log FOLDER --since 2026-12-01

The page is in MLflow. If queries were compared, and without `--since`, `--until` and `--against`, the
document is also written into the folder of the log, where a service that writes this log reads it for
`/metrics`.
"""

import json
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import matplotlib.pyplot as plt
import mlflow
import numpy as np
from rich.console import Console
from rich.table import Table

from twinspire.export.evaluation.drift_reference import popularity_ranks
from twinspire.export.release.registry import AliasState, fetch
from twinspire.export.served_traffic.drift import Feature, compare
from twinspire.export.served_traffic.served_answers import ServedFiles
from twinspire.protos import bundle
from twinspire.protos.cli import FAILED
from twinspire.protos.documents import parse_json
from twinspire.protos.drift import DriftReference
from twinspire.protos.errors import MissingStage
from twinspire.protos.files import served_log
from twinspire.train.config import Experiment
from twinspire.train.html_page import html_page
from twinspire.train.markdown import plain, table
from twinspire.train.plots import BASELINE_COLOUR, MODEL_COLOUR, as_png, style_axes
from twinspire.train.progress import PROGRESS
from twinspire.train.training.tracking import mlflow_errors, tracked_run

STAGE = "drift"
WINDOW = timedelta(days=1)  # before `until`, by default
MOST = 20_000  # answers of a window
PLOT = "drift.png"
HEADS = ("feature", "PSI", "effect", "p", "")
FIGURES = ("psi", "effect", "p", "drifted")  # of a feature in the document
PLOTS, BINS = 30, 12  # most plots, and most bins in one


def command(experiment: Experiment, arguments: Namespace) -> dict[str, Any]:
    """The command `drift`: what has drifted, feature by feature; its exit code says whether something has.

    Raises:
        MissingStage: there is no champion, or no served log.
        InvalidInput: the log cannot be read.
    """
    name = experiment.name
    until = (arguments.until or datetime.now()).astimezone(UTC)
    since = arguments.since.astimezone(UTC) if arguments.since else until - WINDOW
    with mlflow_errors(), PROGRESS.status("fetching the champion"):
        version = AliasState.of(name).champion
        if not version:
            raise MissingStage(f"{name}: no version is champion, so there is nothing to compare with")
        folder, manifest = fetch(name, version)
    files = ServedFiles(arguments.served_log)
    window = files.window(manifest.bundle_version, since, until, MOST)
    features, queries = list[Feature](), 0
    why = "the bundle has no reference; `make export` makes a bundle with one"
    reference = DriftReference.read(folder, manifest)
    if reference is not None:
        earlier = None
        if arguments.against:
            begun, ended = (each.astimezone(UTC) for each in arguments.against)
            earlier = files.window(manifest.bundle_version, begun, ended, MOST)
        items = parse_json((folder / bundle.ITEMS).read_bytes())
        ranks = dict(zip(items["ids"], popularity_ranks(items["popularity"]).tolist(), strict=True))
        with PROGRESS.status(f"comparing {len(window):,} answers"):
            features, queries, why = compare(reference, manifest.schema, window, ranks, earlier)
    document = {
        "model": f"models:/{name}/{version}",
        "bundle": manifest.bundle_version,
        "computed": time.time(),
        "since": since.isoformat(timespec="minutes"),
        "until": until.isoformat(timespec="minutes"),
        "queries": queries,
        "verdict": verdict(features, why),
        "features": {each["name"]: {name: each[name] for name in FIGURES} for each in features},
        "exit_code": FAILED if any(each["drifted"] for each in features) else 0,
    }
    if not (why or arguments.since or arguments.until or arguments.against):
        bundle.write_file(arguments.served_log / served_log.DRIFT, f"{json.dumps(document)}\n".encode())
    with mlflow_errors(), tracked_run(name, STAGE, manifest.bundle_version) as run_id:
        mlflow.log_text(page(document, features), f"{STAGE}/{STAGE}.html")
        mlflow.log_dict(document, f"{STAGE}/{STAGE}.json")
    return {**document, "run_id": run_id}


def verdict(features: Sequence[Feature], why: str) -> str:
    """What has drifted; and why queries were not compared, if they were not."""
    drifted = [f"{each['name']} (PSI {each['psi']:.2f})" for each in features if each["drifted"]]
    if drifted:
        return f"drift: {', '.join(drifted)}" + (f"; queries were not compared: {why}" if why else "")
    return f"unknown: {why}" if why else f"no drift in {len(features)} features"


def show(document: Mapping[str, Any], console: Console) -> None:
    """Print the figures of each feature, and the verdict."""
    shown = Table(*HEADS, box=None)
    for row in _cells(document):
        shown.add_row(*row)
    console.print(shown)
    for text in (_counted(document), document["verdict"]):
        console.print(text, soft_wrap=True)


def page(document: Mapping[str, Any], features: Sequence[Feature]) -> str:
    """The document as HTML, with plots of the features."""
    pictures = {PLOT: _drawn(features)} if features else {}
    cells = [[*map(plain, row)] for row in _cells(document)]
    parts = [
        f"# {plain(document['verdict'])}",
        plain(_counted(document)),
        table(HEADS, cells, "lrrrl"),
        f"![shares of each feature, in the reference and in the window]({PLOT})" if pictures else "",
    ]
    return html_page("\n\n".join(part for part in parts if part) + "\n", pictures)


def _counted(document: Mapping[str, Any]) -> str:
    return "{model}: {queries:,} queries from {since} to {until}".format(**document)


def _cells(document: Mapping[str, Any]) -> list[list[str]]:
    cells = []
    for name, each in document["features"].items():
        effect = "-" if each["effect"] is None else f"{each['effect']:.3f}"
        outcome = "drift" if each["drifted"] else ""
        cells.append([name, f"{each['psi']:.3f}", effect, f"{each['p']:.2g}", outcome])
    return cells


def _drawn(features: Sequence[Feature]) -> bytes:
    """The features of the largest PSI as a PNG file."""
    largest = sorted(features, key=lambda each: -float(each["psi"]))[:PLOTS]
    rows = -(-len(largest) // 3)
    figure, grid = plt.subplots(rows, 3, figsize=(12, 2.6 * rows), squeeze=False, layout="constrained")
    for axes in grid.flat[len(largest) :]:
        axes.set_visible(False)
    for axes, each in zip(grid.flat, largest, strict=False):
        shown = np.sort(np.argsort(-each["shares"].max(axis=0), kind="stable")[:BINS])
        places = np.arange(len(shown))
        axes.bar(places - 0.2, each["shares"][0, shown], 0.4, color=MODEL_COLOUR, label="reference")
        axes.bar(places + 0.2, each["shares"][1, shown], 0.4, color=BASELINE_COLOUR, label="window")
        axes.set_xticks(places, [each["labels"][n][:14] for n in shown], rotation=45, ha="right", fontsize=7)
        axes.set_title(f"{each['name']}, PSI {each['psi']:.2f}", parse_math=False)
        style_axes(axes)
    grid.flat[0].legend(fontsize=7, frameon=False)
    return as_png(figure)
