"""A challenger beside the champion, gate by gate."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from export.bench.machine import machine
from export.gates import cost, latency, parity, quality, recall, shadow
from export.gates.apart import Failure, ask
from export.gates.decision import NAMES, Decision, Gate, Side
from train.config import Experiment
from train.problem import Problem


def compare(
    challenger: Side,
    champion: Side | None,
    experiment: Experiment,
    problem: Callable[[], Problem],
    console: Console,
) -> Decision:
    """Measure both bundles, and judge the challenger by every gate.

    Args:
        champion: None where no version is served yet; what is relative to it then holds.
        experiment: its `[gates]` say what is asked.
        problem: gives the challenger's data; called only where something must be evaluated anew.
        console: for progress.

    Raises:
        Unavailable: MLflow does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="twinspire-gates-") as scratch:
        return _Comparison(challenger, champion, experiment, console, Path(scratch)).decide(problem)


class _Comparison:
    """The making of one decision; what it writes for other processes lies in a folder of its own."""

    def __init__(
        self,
        challenger: Side,
        champion: Side | None,
        experiment: Experiment,
        console: Console,
        scratch: Path,
    ) -> None:
        self.challenger = challenger
        self.champion = champion
        self.experiment = experiment
        self.console = console
        self.scratch = scratch
        self.gates: dict[str, Gate] = {}
        self.measured: dict[str, Any] = {}

    def decide(self, problem: Callable[[], Problem]) -> Decision:
        """All gates, the cheapest reason to refuse first."""
        self._add("size", *cost.judge_size(self.challenger, self.champion, self.experiment))
        works = self._measure() and self._parity()
        found = quality.compared(
            self.challenger, self.champion, self.experiment, problem, works, self.console
        )
        if found is not None:
            self._add("quality", *found)
        self._add("shadow", *shadow.judge(self.challenger, self.experiment))
        self.measured["not_measured"] = [name for name in NAMES if name not in self.gates]
        gates = tuple(self.gates[name] for name in NAMES if name in self.gates)
        return Decision(self.challenger, self.champion, gates, self.measured)

    def _add(self, what: str, gate: Gate, measured: Any) -> None:
        self.gates[gate.name] = gate
        self.measured[what] = measured

    def _measure(self) -> bool:
        """Load time, index and latency, in a process of their own; whether the challenger bore it."""
        config = self.experiment.gates
        request = {
            "task": "measure",
            "bundles": {name: str(side.folder.absolute()) for name, side in self._sides().items()},
            "k": recall.at(self.experiment),
            "threads": config.threads,
            "iterations": config.iterations,
            "rounds": latency.ROUNDS,
            "loads": cost.LOADS,
        }
        with self.console.status("load time, index and latency of " + " and ".join(self._sides())):
            found = ask(request, self.scratch, config.threads)
        if isinstance(found, Failure):
            self._add("load", cost.broken(self.experiment, found), {"error": found.text})
            return found.bundle == "champion"
        self._add("load", *cost.judge_load(self.experiment, found["load_s"]))
        recalls = found["recall"]["challenger"]
        self._add("index_recall", *recall.judge(self.challenger, self.experiment, recalls))
        gates, measured = latency.judge(self.experiment, found["latency"])
        self.gates |= {gate.name: gate for gate in gates}
        self.measured["latency"] = measured
        self.measured |= {"threads": config.threads, "machine": machine()}
        return True

    def _parity(self) -> bool:
        """Whether the challenger's towers bear what is asked of them."""
        with self.console.status("parity of both towers"):
            gate, measured = parity.judge(self.challenger, self.experiment, self.scratch)
        self._add("parity", gate, measured)
        return "error" not in measured or gate.figure is not None

    def _sides(self) -> dict[str, Side]:
        sides = {"challenger": self.challenger}
        return sides if self.champion is None else {**sides, "champion": self.champion}
