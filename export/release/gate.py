"""What a gate is: a figure of the challenger, the bound that it must keep, and how both are shown.

Each file in `gates/` declares the gates that share measurements:

    GATES = (Gate(name="bundle_size", title="size of the bundle", judge=judge, ...),)

A gate judges the challenger of a `Comparison`. The results of all gates make a `Decision`.

Gates are judged in the order of `Gate.order`. Load times, recalls and latencies of both bundles are measured
together, by the first gate that reads `Comparison.served`; the requests of all gates are known by then. Two
gates rely on an earlier one: `parity` sets `Comparison.towers_fail`, so that later gates do not run towers
that fail, and `quality` sets `Comparison.quality_change`, which `quality_history` reads.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from twinspire.export.benchmark.isolated_process import ProcessFailure, ask
from twinspire.export.served_traffic.served_answers import ServedFiles
from twinspire.protos.bundle import Manifest
from twinspire.protos.figures import WARNINGS
from twinspire.protos.system.machine import machine
from twinspire.train.config import Experiment
from twinspire.train.config.gates import GatesConfig
from twinspire.train.data.training_data import TrainingData
from twinspire.train.progress import PROGRESS


@dataclass(frozen=True)
class ComparedVersion:
    """One registered model version that is compared: the challenger or the champion.

    Args:
        version: its number in the registry.
        folder: the local folder of its bundle.
        manifest: the manifest of that bundle.
    """

    version: str
    folder: Path
    manifest: Manifest

    @property
    def doubts(self) -> tuple[str, ...]:
        """The warnings of the run that trained its towers, one sentence each."""
        return tuple(self.manifest.quality.get(WARNINGS, ()))

    def document(self) -> dict[str, Any]:
        """The identity of the version, ready for JSON."""
        manifest = self.manifest
        return {
            "version": self.version,
            "bundle_version": manifest.bundle_version,
            "run_id": manifest.run_id,
            "git_commit": manifest.git_commit,
            "split_hash": manifest.split_hash,
            "data_set": manifest.dataset.get("name", ""),
            "items": manifest.count,
            "dimension": manifest.dimension,
            "index": asdict(manifest.index),
        }


@dataclass(frozen=True)
class GateResult:
    """The outcome of one gate.

    Args:
        name: of the gate.
        figure: the measured value; None if there is none, or if measuring failed.
        bound: the limit for the figure.
        holds: whether the challenger passes.
        text: one sentence: what was measured, and the outcome.
        warning: what a person should know although the gate holds; empty if there is nothing.
        change: metric -> mean difference to the champion, which the record keeps for later promotions.
        lower_is_better: the bound is an upper one, also where other results of the gate have a lower one.
    """

    name: str
    figure: float | None
    bound: float
    holds: bool
    text: str
    warning: str = ""
    change: Mapping[str, float] = field(default_factory=dict)
    lower_is_better: bool = False


@dataclass(frozen=True)
class Decision:
    """Whether a challenger may become champion.

    Args:
        challenger: the version to promote.
        champion: the version that is served now; None if there is none.
        results: one for each gate that could be measured. `load_time` or `parity` refuses where another gate
            could not be measured.
        measured: all measurements, ready for JSON; `not_measured` names the gates without a result.
    """

    challenger: ComparedVersion
    champion: ComparedVersion | None
    results: tuple[GateResult, ...]
    measured: dict[str, Any]

    @property
    def versions(self) -> dict[str, ComparedVersion]:
        """`challenger` and, if there is one, `champion`."""
        return _versions(self.challenger, self.champion)

    @property
    def refused(self) -> tuple[GateResult, ...]:
        """The results that do not hold."""
        return tuple(result for result in self.results if not result.holds)

    @property
    def accepted(self) -> bool:
        """Whether all gates hold."""
        return not self.refused

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings of all gates, then those of the run that trained the challenger."""
        return (*(result.warning for result in self.results if result.warning), *self.challenger.doubts)

    def verdict(self) -> str:
        """The decision in one sentence."""
        if self.accepted:
            return f"accepted: all {len(self.results)} gates hold"
        return "refused by " + "; ".join(f"{result.name}: {result.text}" for result in self.refused)

    def document(self) -> dict[str, Any]:
        """The decision, ready for JSON."""
        return {
            "accepted": self.accepted,
            "verdict": self.verdict(),
            "refused": [result.name for result in self.refused],
            "warnings": list(self.warnings),
            "challenger": self.challenger.document(),
            "champion": self.champion and self.champion.document(),
            "gates": [asdict(result) for result in self.results],
            "measured": self.measured,
        }


@dataclass
class Comparison:
    """A challenger beside the champion, and what several gates need to judge it.

    Args:
        challenger, champion: as in `Decision`.
        experiment: its `[gates]` hold the bounds, its other sections the defaults of some gates.
        data: gives the challenger's data; called only if a bundle must be evaluated again.
        scratch: an empty folder for files that other processes read and write.
        request: which measurements `served` makes.
        answers: served log and events, where they are given.
        towers_fail: the challenger's towers have failed to run; the gate `parity` sets it.
        quality_change: metric -> mean difference to the champion; the gate `quality` sets it. None if it has
            not compared the two.
        conditions: thread budget and machine of `served`, once it is read.
    """

    challenger: ComparedVersion
    champion: ComparedVersion | None
    experiment: Experiment
    data: Callable[[], TrainingData]
    scratch: Path
    request: Mapping[str, Any] = field(default_factory=dict)
    answers: ServedFiles | None = None
    towers_fail: bool = False
    quality_change: Mapping[str, float] | None = None
    conditions: dict[str, Any] = field(default_factory=dict)

    @property
    def versions(self) -> dict[str, ComparedVersion]:
        """`challenger` and, if there is one, `champion`."""
        return _versions(self.challenger, self.champion)

    @property
    def gates(self) -> GatesConfig:
        """The bounds."""
        return self.experiment.gates

    @cached_property
    def served(self) -> Mapping[str, Any] | ProcessFailure:
        """Load times, recalls and latencies of the bundles, measured in another process at the first read."""
        request = {
            "task": "measure",
            "bundles": {name: str(each.folder.absolute()) for name, each in self.versions.items()},
            "threads": self.gates.threads,
            **self.request,
        }
        with PROGRESS.status("load time, index and latency of " + " and ".join(self.versions)):
            found = ask(request, self.scratch, self.gates.threads)
        if not isinstance(found, ProcessFailure):
            self.conditions = {"threads": self.gates.threads, "machine": machine()}
        return found

    @property
    def challenger_runs(self) -> bool:
        """False once the challenger has failed to load or its towers have failed to run."""
        failed = isinstance(self.served, ProcessFailure) and self.served.bundle != "champion"
        return not failed and not self.towers_fail


@dataclass(frozen=True)
class Section:
    """A section of the page of a decision.

    Args:
        title: its heading.
        text: renders the section as Markdown; a section without text is left out.
    """

    title: str
    text: Callable[[Decision], str]


Judgement = tuple[GateResult, dict[str, Any]]


@dataclass(frozen=True)
class Gate:
    """One criterion for a promotion.

    Args:
        name: in `decision.json`, in the audit log and in the run's metrics.
        title: on the page.
        order: gates are judged and listed by it, from low to high. `quality_history` must come after
            `quality`, and what runs towers after `parity`.
        judge: measures and judges. It returns the result and all measurements, ready for JSON, or None if the
            gate cannot be measured because the challenger does not run.
        shown: formats the figure and the bound.
        measured_as: key of the measurements in `Decision.measured`, by default the name; several gates of one
            file can share one.
        at_least: the bound is a lower bound.
        request: what the gate adds to the request that `Comparison.served` answers.
        note: a sentence for the page: how to read the figure.
        section: of the page.
    """

    name: str
    title: str
    order: int
    judge: Callable[[Comparison], Judgement | None]
    shown: Callable[[float], str]
    measured_as: str = ""
    at_least: bool = False
    request: Callable[[Experiment], Mapping[str, Any]] = lambda _: {}
    note: str = ""
    section: Section | None = None

    @property
    def key(self) -> str:
        """Key of the measurements in `Decision.measured`."""
        return self.measured_as or self.name

    def shown_figure(self, figure: float | None) -> str:
        """The figure with its unit; a dash if there is none."""
        return "–" if figure is None else self.shown(figure)

    def shown_bound(self, bound: float, lower_is_better: bool = False) -> str:
        """The bound with its unit, and on which side of it the figure must be.

        Args:
            lower_is_better: as of the result.
        """
        return f"{'≥' if self.at_least and not lower_is_better else '≤'} {self.shown(bound)}"


def _versions(challenger: ComparedVersion, champion: ComparedVersion | None) -> dict[str, ComparedVersion]:
    found = {"challenger": challenger}
    return found if champion is None else {**found, "champion": champion}
