"""Places tensors beside others: what is computed together has to be on one device.

`train/training/device.py` chooses the device, and places the towers there. What else computes with a tower
follows it by the functions of this module.
"""

import dataclasses
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any, TypeVar

from torch import Tensor, nn

T = TypeVar("T")
Place = Callable[[T], T]  # moves a tensor, or what holds tensors, to a device

# Devices with neither double precision nor sparse matrices, and with few decompositions of matrices.
WITHOUT_SOLVERS = frozenset({"mps"})


def as_given(value: T) -> T:
    """Leave a value where it is."""
    return value


def moved(value: T, move: Callable[[Tensor], Tensor]) -> T:
    """A tensor, or a mapping or a dataclass that holds tensors, with each tensor moved."""
    found: T = _moved(value, move)
    return found


def beside(value: T, tensor: Tensor) -> T:
    """A value as of `moved`, on the device of a tensor."""
    return moved(value, lambda each: each.to(tensor.device))


def beside_module(value: T, module: nn.Module) -> T:
    """A value as of `moved`, on the device of a module that has parameters or buffers."""
    return beside(value, next(chain(module.parameters(), module.buffers())))


def to_solve_beside(value: T, tensor: Tensor) -> T:
    """As `beside`, but in main memory where the device of the tensor has no solvers."""
    return value if tensor.device.type in WITHOUT_SOLVERS else beside(value, tensor)


def _moved(value: Any, move: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return move(value)
    if isinstance(value, Mapping):
        return {key: _moved(each, move) for key, each in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return dataclasses.replace(value, **{name: _moved(getattr(value, name), move) for name in names})
    return value
