"""Both towers as they will be served: exported, checked against torch, and in the precision that pays.

The towers go to ONNX in float32 first, and parity is held there. Then their variants in fewer bits are
measured, and the one that is chosen is checked against a torch tower whose tables were rounded alike.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console

from export import graph, parity, precision
from export.backends import Encode, onnx_encoder, torch_encoder
from export.bench.figures import PLAIN, SERVED
from export.bench.quick import Contenders, benchmark
from protos import bundle
from protos.features import Side, TowerInputs
from train.config import Experiment
from train.model import Model
from train.problem import Problem
from train.towers import Tower

SIDES: tuple[Side, Side] = ("query", "item")
FILES: Mapping[Side, str] = {"query": bundle.QUERY_TOWER, "item": bundle.ITEM_TOWER}
SAMPLE = 500  # records that parity and latency are measured on


@dataclass(frozen=True)
class Served:
    """One tower in both forms.

    Args:
        tower: in torch, with the tables that the file has.
        path: the ONNX file.
        onnx: that file, loaded.
        precision: name of its variant.
    """

    side: Side
    inputs: TowerInputs
    tower: Tower
    path: Path
    onnx: Encode
    precision: bundle.Variant


@dataclass(frozen=True)
class Towers:
    """Both towers, and what was measured of them.

    Args:
        served: by side.
        vectors: the precision that item vectors are kept in.
        reports: `parity`, `precision` and `latency`.
        figures: name -> plot.
    """

    served: dict[Side, Served]
    vectors: precision.StoredVectors
    reports: dict[str, dict[str, Any]]
    figures: dict[str, Figure]


class Exporting:
    """The way of both towers from torch to the files that are served.

    Args:
        model: as it was trained.
        problem: gives records to measure on.
        filled: scores are not cosines, so that the last coordinate of an item only fills it up.
        console: receives progress.
    """

    def __init__(
        self, experiment: Experiment, model: Model, problem: Problem, filled: bool, console: Console
    ) -> None:
        self.experiment, self.model, self.problem = experiment, model, problem
        self.filled, self.console = filled, console

    def into(self, folder: Path, scratch: Path) -> Towers:
        """Write both towers into `folder`; `scratch` receives their variants.

        Raises:
            GateRefused: torch and ONNX Runtime differ by more than the tolerance.
            ConfigError: a variant is asked for that cannot be made of a tower.
        """
        plain = {side: self._export(side, scratch) for side in SIDES}
        before = {side: self._parity(each) for side, each in plain.items()}
        served, vectors, report = self._chosen(plain, folder, scratch)
        found: dict[str, Any] = {
            side: self._parity(each, report[side]["parity_tolerance"]) | {PLAIN: before[side]}
            for side, each in served.items()
        }
        latency, figure = self._latency(plain, served)
        figures = {"latency": figure, "precision": precision.quality_and_latency(report)}
        reports: dict[str, dict[str, Any]] = {
            "parity": found,
            "precision": report,
            "latency": latency,
        }
        return Towers(served, vectors, reports, figures)

    def sample(self, side: Side, count: int) -> dict[str, list[Any]]:
        """Raw values of records of the test part: feature name -> values."""
        return self.problem.sample(side, "test", count, seed=0)

    def _export(self, side: Side, folder: Path) -> Served:
        tower = graph.frozen(self.model.towers[SIDES.index(side)])
        inputs, path = self.model.schema.side(side), folder / FILES[side]
        with self.console.status(f"exporting the {side} tower"):
            one = self.sample(side, 1)
            example = inputs.to_arrays({name: value * 2 for name, value in one.items()})
            nodes = graph.export_tower(tower, inputs.features, example, path)
        size = path.stat().st_size / 2**20
        self.console.print(f"{side} tower: {nodes} nodes, {size:.1f} MiB in float32", highlight=False)
        return self._served(side, tower, path, PLAIN)

    def _served(self, side: Side, tower: Tower, path: Path, variant: bundle.Variant) -> Served:
        onnx = onnx_encoder(path, self.experiment.export.threads)
        return Served(side, self.model.schema.side(side), tower, path, onnx, variant)

    def _parity(self, each: Served, tolerance: float | None = None) -> dict[str, Any]:
        with self.console.status(f"parity of the {each.side} tower"):
            return parity.check(
                each.side,
                each.inputs,
                each.onnx,
                torch_encoder(each.tower),
                self.sample(each.side, SAMPLE),
                tolerance or self.experiment.export.parity_tolerance,
            )

    def _chosen(
        self, plain: Mapping[Side, Served], folder: Path, scratch: Path
    ) -> tuple[dict[Side, Served], precision.StoredVectors, dict[str, Any]]:
        config, console = self.experiment.precision, self.console
        encoders = {side: (each.inputs, onnx_encoder(each.path, 0)) for side, each in plain.items()}
        trial = precision.make_trial(self.problem, encoders, config, console)
        chosen: dict[Side, precision.Chosen] = {}
        served: dict[Side, Served] = {}
        for side, each in plain.items():
            exported = precision.Exported(side, each.inputs, each.tower, each.path)
            found = precision.choose_tower(exported, trial, config, self.experiment.export, scratch, console)
            path = shutil.copyfile(found.path, folder / FILES[side])
            chosen[side] = found
            served[side] = self._served(side, found.tower, path, found.variant)
            console.print(f"{side} tower: {found.report['why']}", highlight=False, soft_wrap=True)
        both = chosen["query"].vectors, chosen["item"].vectors
        stored = precision.choose_vectors(trial, *both, self.filled, config)
        report: dict[str, Any] = {side: each.report for side, each in chosen.items()}
        return served, stored, report | {"vectors": stored.report}

    def _latency(
        self, plain: Mapping[Side, Served], served: Mapping[Side, Served]
    ) -> tuple[dict[str, Any], Figure]:
        with self.console.status("latency of both towers"):
            contenders = {
                side: Contenders(
                    each.inputs,
                    each.tower,
                    {PLAIN: plain[side].onnx, SERVED: each.onnx},
                    self.sample(side, SAMPLE),
                )
                for side, each in served.items()
            }
            return benchmark(contenders, self.experiment)
