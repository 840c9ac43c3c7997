"""Moves tensors to the device of others: what is computed together has to be on one device.

`train/training/process.py` chooses the device, and places the towers there. What else computes with a tower
follows it by the functions of this module.
"""

import dataclasses
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any, TypeVar

import numpy.typing as npt
import torch
from torch import Tensor, nn

T = TypeVar("T")
Place = Callable[[T], T]  # moves a tensor, or what holds tensors, to a device

WITHOUT_SOLVERS = frozenset({"mps"})  # devices without double precision


def as_given(value: T) -> T:
    """Leave a value where it is."""
    return value


def moved(value: T, move: Callable[[Tensor], Tensor]) -> T:
    """A tensor, or a mapping or a dataclass that holds tensors, with each tensor moved."""
    found: T = _moved(value, move)
    return found


def to_device_of(values: npt.NDArray[Any] | Tensor, tensor: Tensor) -> Tensor:
    """An array or a tensor as a tensor on the device of another one."""
    found = values if isinstance(values, Tensor) else torch.from_numpy(values)
    return found.to(tensor.device)


def to_device_of_module(value: T, module: nn.Module) -> T:
    """A value as of `moved`, on the device of a module that has parameters or buffers."""
    device = next(chain(module.parameters(), module.buffers())).device
    return moved(value, lambda each: each.to(device))


def _moved(value: Any, move: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return move(value)
    if isinstance(value, Mapping):
        return {key: _moved(each, move) for key, each in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return dataclasses.replace(value, **{name: _moved(getattr(value, name), move) for name in names})
    return value
