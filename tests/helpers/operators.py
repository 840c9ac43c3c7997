"""Two caches for torch's exporter in tests: the source of its about 500 functions, and its operators.

By itself it reads both in each export. The files are the same, byte for byte (torch 2.13).
"""

import contextlib
import functools
import importlib
from typing import Any


def read_operators_once() -> None:
    """Let each export begin with a copy of one table of operators; an export changes its copy."""
    try:
        registry: Any = importlib.import_module("torch.onnx._internal.exporter._registration").ONNXRegistry
        read = functools.cache(registry.from_torchlib)
        newest = importlib.import_module("torch.onnx._internal.exporter._constants").TORCHLIB_OPSET
    except (ImportError, AttributeError):  # a version of torch without this class: exports read the source
        return

    def from_torchlib(opset_version: int = newest) -> Any:
        table = registry()
        whole = read(opset_version)
        vars(table).update(vars(whole))
        table.functions = {operator: [*found] for operator, found in whole.functions.items()}
        return table

    registry.from_torchlib = staticmethod(from_torchlib)
    operators: Any = importlib.import_module("torch._export.utils")
    # torch does not cache this list, as operators may be registered later; no test registers any.
    if hasattr(operators, "_materialize_cpp_cia_ops"):
        operators._materialize_cpp_cia_ops = functools.cache(operators._materialize_cpp_cia_ops)


def read_operators_now() -> None:
    """`read_operators_once`, and read them: forks of this process have the table."""
    read_operators_once()
    with contextlib.suppress(ImportError, AttributeError):
        registration: Any = importlib.import_module("torch.onnx._internal.exporter._registration")
        registration.ONNXRegistry.from_torchlib()
