"""The gates. Each module in this folder declares some, and is found by being here.

A manifest states what its export measured. Whatever can be measured again is measured again here, on the
files of both bundles, in alternating turns; `export/release/promote.py` asks all gates.

To add a gate, write one module with a tuple `GATES` of `export.release.gate.Gate`: its measurement, its
judgement, and how the page shows it; its keys go into `train/config/gates.py`. `latency.py` shows two gates
with a section, `size_and_load.py` two small ones.
"""

import importlib
import pkgutil

from twinspire.export.release.gate import Gate


def _discovered() -> dict[str, Gate]:
    modules = [importlib.import_module(f"{__name__}.{each.name}") for each in pkgutil.iter_modules(__path__)]
    found: list[Gate] = [gate for module in modules for gate in module.GATES]
    by_name = {gate.name: gate for gate in sorted(found, key=lambda gate: gate.order)}
    if twice := [gate.name for gate in found if by_name[gate.name] is not gate]:
        raise ValueError(f"{__name__}: expected one gate of each name, got another {', '.join(twice)}")
    return by_name


GATES = _discovered()
