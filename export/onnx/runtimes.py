"""Encoders that run a tower in ONNX Runtime, as the service does, or in torch, the reference.

Only the second imports torch. A process that only runs ONNX Runtime starts a second sooner.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from twinspire.protos.features import Arrays
from twinspire.protos.files.onnx_file import check_self_contained

if TYPE_CHECKING:
    from twinspire.train.models.towers import Tower

Encode = Callable[[Arrays], npt.NDArray[Any]]

# Characters or events of a batch, with its padding. A tower of 512 coordinates in float32 takes up to 33 KB
# for each; larger batches are no faster.
LARGEST_BATCH = 16_384


def bounded_batches(lengths: npt.NDArray[np.int64], most: int) -> Iterator[slice]:
    """Consecutive batches of at most `most` records and, with their padding, `LARGEST_BATCH` characters.

    A longer record is a batch of its own.

    Args:
        lengths: (N,), of the records, see `TowerInputs.lengths`.
    """
    begin = 0
    while begin < len(lengths):
        part = lengths[begin : begin + most]
        padded = np.maximum.accumulate(part) * np.arange(1, len(part) + 1)  # if the batch ends at each record
        end = begin + max(1, int(np.searchsorted(padded, LARGEST_BATCH, side="right")))
        yield slice(begin, end)
        begin = end


def onnx_encoder(path: Path, threads: int = 1) -> Encode:
    """An encoder from arrays to vectors (B, D) by ONNX Runtime.

    Args:
        threads: intra-op threads; 0 takes all cores, and lets idle threads sleep, for many records.

    Raises:
        BundleDamaged: the model has weights outside its file.
    """
    check_self_contained(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    if threads == 0:  # threads that spin while they wait take as much processor time again
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
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
