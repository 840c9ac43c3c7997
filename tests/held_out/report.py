"""Trains and exports an experiment with several seeds, and shows all rankings in one table."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from twinspire.protos.figures import DIFFERENCE
from twinspire.train.evaluation.baselines import LABELS
from twinspire.train.metrics import OF_LABELS, metric_label

ROOT = Path(__file__).parents[2]
OWN = {
    "": "served",
    "exact_": "towers alone",
    "hybrid_": "hybrid, not served",
    "lexical_": "lexical part of the hybrid",
}


def qualities(config: Path, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Of each seed the metrics of the exported bundle and of all baselines on test.

    Args:
        config: an experiment. Data sets, runs and bundles are kept in its folder, so that what was made
            before is not made again.

    Raises:
        subprocess.CalledProcessError: a command failed; it has printed why.
    """
    folder = config.parent
    store = {
        "TWINSPIRE_CACHE": str(folder / "cache"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
    }
    found = []
    for seed in seeds:
        seeded = folder / f"seed-{seed}.toml"
        seeded.write_text(with_seed(config.read_text(), seed))
        for stage, command in (("train", "fit"), ("export", "bundle")):
            arguments = [sys.executable, "-m", stage, command, "--config", str(seeded), "--json"]
            done = subprocess.run(
                arguments, cwd=ROOT, env={**os.environ, **store}, stdout=subprocess.PIPE, check=True
            )
        found.append(json.loads(done.stdout)["quality"])
    return found


def with_seed(config: str, seed: int) -> str:
    """An experiment's TOML with `training.seed`."""
    section = "[training]" if "\n[training]" in config else "\n[training]\n"
    return (config if section in config else config + section).replace(
        "[training]", f"[training]\nseed = {seed}", 1
    )


def table(title: str, found: Mapping[int, Mapping[str, Any]], metrics: Sequence[str]) -> Iterator[str]:
    """The lines of a table in Markdown: a row for each ranking and seed.

    A cell has the figure with its 95 % interval, then by how much what is served is better, likewise.

    Args:
        found: seed -> metrics of a bundle.
        metrics: names of the columns.
    """
    drawn = next(iter(found.values()))["drawn"]
    yield f"{title}: 95 % intervals, {drawn} drawn; then by how much the served model is better"
    yield ""
    yield f"| | seed | {' | '.join(map(metric_label, metrics))} |"
    yield f"|---|---|{'---|' * len(metrics)}"
    labels = OWN | {f"{name}_": label for name, label in LABELS.items()}
    for prefix, label in labels.items():
        for seed, quality in found.items():
            if any(prefix + metric in quality for metric in metrics):
                cells = (_cell(quality, prefix, metric) for metric in metrics)
                yield f"| {label} | {seed} | {' | '.join(cells)} |"


def _cell(quality: Mapping[str, Any], prefix: str, metric: str) -> str:
    better = f"{prefix}{metric}_gain" if metric in OF_LABELS else f"{prefix}{DIFFERENCE}{metric}"
    difference = _figure(quality, better, "+.4f") if prefix else ""
    return "; ".join(filter(None, (_figure(quality, prefix + metric, ".4f"), difference)))


def _figure(quality: Mapping[str, Any], name: str, layout: str) -> str:
    if name not in quality:
        return ""
    low, high = (quality.get(f"{name}_{end}") for end in ("low", "high"))
    ends = "" if low is None or high is None else f" ({low:{layout}} to {high:{layout}})"
    return f"{quality[name]:{layout}}{ends}"
