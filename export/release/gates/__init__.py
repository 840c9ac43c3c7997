"""The gates. Each module in this folder declares some, and is found by being here.

To add a gate, write one module with a tuple `GATES` of `export.release.gate.Gate`: its measurement, its
judgement, and how the page shows it; its keys go into `train/config/gates.py`. `latency.py` shows two gates
with a section and a plot, `bundle_size.py` a small one.
"""

import importlib
import pkgutil

from export.release.gate import Gate


def _discovered() -> tuple[Gate, ...]:
    modules = [importlib.import_module(f"{__name__}.{each.name}") for each in pkgutil.iter_modules(__path__)]
    found: list[Gate] = [gate for module in modules for gate in module.GATES]
    return tuple(sorted(found, key=lambda gate: gate.order))


GATES = _discovered()
