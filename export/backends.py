"""The two ways to run a tower here: ONNX Runtime, which is served, and torch, which it must equal."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnxruntime
import torch

from protos.features import Arrays
from protos.huge_pages import on_huge_pages
from protos.onnx_file import check_self_contained
from train.towers import Tower

Encode = Callable[[Arrays], npt.NDArray[Any]]


def onnx_encoder(path: Path, threads: int = 1) -> Encode:
    """Arrays -> vectors (B, D) by ONNX Runtime.

    Args:
        threads: intra-op threads; 0 takes all cores.

    Raises:
        BundleDamaged: the model has weights outside its file.
    """
    check_self_contained(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    with on_huge_pages():  # as the service has it
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    outputs = [node.name for node in session.get_outputs()]
    run = getattr(session, "_sess", session).run  # as the service calls it, without the checks of each call

    def encode(arrays: Arrays) -> npt.NDArray[Any]:
        vectors: npt.NDArray[Any] = run(outputs, arrays, None)[0]
        return vectors

    return encode


def torch_encoder(tower: Tower) -> Encode:
    """Arrays -> vectors (B, D) by torch, eager; the thread budget is torch's global one."""

    @torch.inference_mode()
    def encode(arrays: Arrays) -> npt.NDArray[Any]:
        inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
        vectors: npt.NDArray[Any] = tower(inputs).numpy()
        return vectors

    return encode
