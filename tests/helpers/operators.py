"""torch's exporter reads the source of some 500 functions, once for a process and not in each export."""

import functools
import importlib
from typing import Any


def read_operators_once() -> None:
    """Let each export begin with a copy of one table of operators; an export changes its copy."""
    registry: Any = importlib.import_module("torch.onnx._internal.exporter._registration").ONNXRegistry
    read = functools.cache(registry.from_torchlib)

    def from_torchlib(*opset_version: int, **named: int) -> Any:
        table = registry()
        whole = read(*opset_version, **named)
        vars(table).update(vars(whole))
        table.functions = {operator: [*found] for operator, found in whole.functions.items()}
        return table

    registry.from_torchlib = staticmethod(from_torchlib)
