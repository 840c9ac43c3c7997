"""Tests let torch's exporter read the source of its some 500 functions and its operators once for a process.

By itself it does so in each export. The files are the same, byte for byte (torch 2.13).
"""

import functools
import importlib
from typing import Any


def read_operators_once() -> None:
    """Let each export begin with a copy of one table of operators; an export changes its copy."""
    try:
        registry: Any = importlib.import_module("torch.onnx._internal.exporter._registration").ONNXRegistry
        read = functools.cache(registry.from_torchlib)
    except (ImportError, AttributeError):  # a version of torch without this class: exports read the source
        return

    def from_torchlib(*opset_version: int, **named: int) -> Any:
        table = registry()
        whole = read(*opset_version, **named)
        vars(table).update(vars(whole))
        table.functions = {operator: [*found] for operator, found in whole.functions.items()}
        return table

    registry.from_torchlib = staticmethod(from_torchlib)
    operators: Any = importlib.import_module("torch._export.utils")
    if hasattr(operators, "_materialize_cpp_cia_ops"):  # called again only for operators that came in between
        operators._materialize_cpp_cia_ops = functools.cache(operators._materialize_cpp_cia_ops)
