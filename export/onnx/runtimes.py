"""Encoders that run a tower in ONNX Runtime, as the service does, or in torch, the reference.

Only the second imports torch. A process that only runs ONNX Runtime starts a second sooner.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import onnxruntime

from twinspire.protos.features import Arrays
from twinspire.protos.files.onnx_file import check_self_contained
from twinspire.protos.system.huge_pages import on_huge_pages

if TYPE_CHECKING:
    from twinspire.train.models.towers import Tower

Encode = Callable[[Arrays], npt.NDArray[Any]]


def onnx_encoder(path: Path, threads: int = 1) -> Encode:
    """An encoder from arrays to vectors (B, D) by ONNX Runtime.

    Args:
        threads: intra-op threads; 0 takes all cores.

    Raises:
        BundleDamaged: the model has weights outside its file.
    """
    check_self_contained(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    with on_huge_pages():  # as in the service
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    outputs = [node.name for node in session.get_outputs()]
    run = getattr(session, "_sess", session).run  # as in the service; skips the checks of each call

    def encode(arrays: Arrays) -> npt.NDArray[Any]:
        vectors: npt.NDArray[Any] = run(outputs, arrays, None)[0]
        return vectors

    return encode


def torch_encoder(tower: "Tower") -> Encode:
    """An encoder from arrays to vectors (B, D) by eager torch, with torch's global number of threads."""
    import torch

    @torch.inference_mode()
    def encode(arrays: Arrays) -> npt.NDArray[Any]:
        inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
        vectors: npt.NDArray[Any] = tower(inputs).numpy()
        return vectors

    return encode
