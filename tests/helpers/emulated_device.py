"""A device that computes on the CPU and is as strict as a card: what is not moved to it is an error.

    with emulated_device() as device:
        tensor = torch.ones(3).to(device)
        tensor + torch.ones(3)                 # raises OtherDevice

Its tensors call their device `meta`, which torch knows everywhere, but they hold values. Every operation of
torch, forward and backward, goes through `EmulatedTensor.__torch_dispatch__`. Values and random numbers are
those of the CPU, so a training there ends with the same weights as one on the CPU.

It is stricter than CUDA in one point: CUDA takes an index in main memory for a tensor on the card, and waits
for its copy. It does not find what differs between the kernels of a card and of the CPU.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from twinspire.train.models import placement

DEVICE = torch.device("meta")
NO_ROOM = (  # as of CUDA, shortened
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.00"
    " GiB is free. Including non-PyTorch memory, this process has 78.10 GiB memory in use."
)
aten = torch.ops.aten
# They may read one device and write another.
_MOVES = {aten._to_copy.default, aten.copy_.default, aten.set_.source_Tensor, aten.set_.source_Storage}


class OtherDevice(RuntimeError):
    """An operation was given tensors of two devices, or made one where its inputs are not."""


class EmulatedTensor(torch.Tensor):
    """A tensor on the emulated device; `held` is the tensor in main memory that has its values."""

    held: Tensor
    is_meta = False  # torch refuses to load weights into what has no values
    takes_doubles = True
    room: int | None = None

    @staticmethod
    def __new__(cls, held: Tensor) -> "EmulatedTensor":
        """Wrap a tensor; the gradient is recorded around the wrapper."""
        if not cls.takes_doubles and (held.dtype == torch.float64 or held.layout != torch.strided):
            raise OtherDevice(
                f"{held.dtype} {held.layout}: the device has no double precision, nothing sparse"
            )
        has_strides = held.layout == torch.strided
        with torch.inference_mode(False):  # else a view there could not share the counter of its base
            found: EmulatedTensor = torch.Tensor._make_wrapper_subclass(
                cls,
                held.shape,
                strides=held.stride() if has_strides else None,
                storage_offset=held.storage_offset() if has_strides else None,
                dtype=held.dtype,
                layout=held.layout,
                device=DEVICE,
            )
        found.held = held
        return found

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        """Marks the class as a wrapper, whose parameters a module replaces in their place."""
        return ["held"], None

    @staticmethod
    def __tensor_unflatten__(
        inner: dict[str, Tensor], meta: None, size: Any, stride: Any
    ) -> "EmulatedTensor":
        """The inverse of `__tensor_flatten__`."""
        return EmulatedTensor(inner["held"])

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Compute on the values."""
        return _compute(func, args, kwargs or {})


class _Emulation(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Makes tensors on the device where torch is asked for them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


@contextmanager
def emulated_device(takes_doubles: bool = True, room: int | None = None) -> Iterator[torch.device]:
    """Tensors can be moved to the device, and made there, in this block.

    Args:
        takes_doubles: whether it has double precision and sparse tensors, as CUDA; Metal has neither.
        room: bytes that may be moved there in all; what is moved beyond is an error, as of CUDA.
    """
    with pytest.MonkeyPatch.context() as patch, _Emulation():
        optimizers = sys.modules["torch.optim.optimizer"]  # Adam's kernels are there for it, as on a card
        patch.setattr(optimizers, "_get_fused_kernels_supported_devices", lambda: ["cpu", DEVICE.type])
        patch.setattr(EmulatedTensor, "takes_doubles", takes_doubles)
        patch.setattr(EmulatedTensor, "room", room)
        if not takes_doubles:
            patch.setattr(placement, "WITHOUT_SOLVERS", {DEVICE.type})
        yield DEVICE


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if torch.is_inference_mode_enabled():  # then torch hands over operations that consist of others
        with _Emulation():
            found = func.decompose(*args, **kwargs)
        if found is not NotImplemented:
            return found
    given: list[Tensor] = []
    _mapped((args, kwargs), given.append)
    held = _mapped((args, kwargs), _held)
    is_there = [isinstance(each, EmulatedTensor) for each in given]
    if any(is_there) and func not in _MOVES:
        for each, there in zip(given, is_there, strict=True):
            # A tensor of no dimension is a constant, which torch moves itself.
            if not there and each.ndim:
                raise OtherDevice(f"{func}: {tuple(each.shape)} {each.dtype} is in main memory")
    goes_there, (held_args, held_kwargs) = any(is_there), held
    if kwargs.get("device") is not None:
        goes_there = torch.device(kwargs["device"]) == DEVICE
        held_kwargs = {**held_kwargs, "device": torch.device("cpu")}
    found = func(*held_args, **held_kwargs)
    if func is aten._to_copy.default and goes_there and EmulatedTensor.room is not None:
        EmulatedTensor.room -= found.nbytes
        if EmulatedTensor.room < 0:
            raise torch.OutOfMemoryError(NO_ROOM)
    if func is aten.copy_.default:
        return args[0]
    # An operation in place returns what it was given.
    as_given = {} if func is aten._to_copy.default else {id(_held(each)): each for each in given}

    def result(value: Tensor) -> Tensor:
        if id(value) in as_given:
            return as_given[id(value)]
        return EmulatedTensor(value) if goes_there else value

    return _mapped(found, result)


def _held(tensor: Tensor) -> Tensor:
    return tensor.held if isinstance(tensor, EmulatedTensor) else tensor


def _mapped(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """Arguments or results of an operation, with each tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, list | tuple):
        return type(value)([_mapped(each, change) for each in value])
    if isinstance(value, dict):
        return {key: _mapped(each, change) for key, each in value.items()}
    return value
