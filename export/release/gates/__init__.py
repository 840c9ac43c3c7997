"""The gates. Each module in this folder declares some, and is found by being here.

    decision = compare(challenger, champion, experiment, data)

A manifest states what its export measured. Whatever can be measured again is measured again here, on the
files of both bundles, in alternating turns.

To add a gate, write one module with a tuple `GATES` of `export.release.gate.Gate`: its measurement, its
judgement, and how the page shows it; its keys go into `train/config/gates.py`. `latency.py` shows two gates
with a section, `size_and_load.py` two small ones.
"""

import importlib
import pkgutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from twinspire.export.judging.served_answers import ServedFiles
from twinspire.export.release.gate import ComparedVersion, Comparison, Decision, Gate, GateResult
from twinspire.train.config import Experiment
from twinspire.train.data.training_data import TrainingData


def _discovered() -> dict[str, Gate]:
    modules = [importlib.import_module(f"{__name__}.{each.name}") for each in pkgutil.iter_modules(__path__)]
    found: list[Gate] = [gate for module in modules for gate in module.GATES]
    by_name = {gate.name: gate for gate in sorted(found, key=lambda gate: gate.order)}
    if twice := [gate.name for gate in found if by_name[gate.name] is not gate]:
        raise ValueError(f"{__name__}: expected one gate of each name, got another {', '.join(twice)}")
    return by_name


GATES = _discovered()


def compare(
    challenger: ComparedVersion,
    champion: ComparedVersion | None,
    experiment: Experiment,
    data: Callable[[], TrainingData],
    gates: Mapping[str, Gate] = GATES,
    answers: ServedFiles | None = None,
) -> Decision:
    """Measure both bundles, and judge the challenger by every gate.

    Args:
        champion: None if no version is served yet; gates that compare with it then hold.
        experiment: its `[gates]` hold the bounds.
        data: gives the challenger's data; called only if a bundle must be evaluated again.
        answers: served log and events, where they are given.

    Raises:
        Unavailable: MLflow does not answer.
    """
    request: dict[str, Any] = {}
    for gate in gates.values():
        request |= gate.request(experiment)
    results: list[GateResult] = []
    measured: dict[str, Any] = {"not_measured": []}
    with tempfile.TemporaryDirectory(prefix="twinspire-gates-") as scratch:
        comparison = Comparison(challenger, champion, experiment, data, Path(scratch), request, answers)
        for gate in gates.values():
            judged = gate.judge(comparison)
            if judged is None:
                measured["not_measured"].append(gate.name)
                continue
            results.append(judged[0])
            measured.setdefault(gate.key, {}).update(judged[1])
    return Decision(challenger, champion, tuple(results), measured | comparison.conditions)
