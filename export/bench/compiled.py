"""torch.compile beside torch eager, where it works: it needs a C++ compiler, and a tower that it can take.

What it cannot take is no fault of the bundle, so it is left out by name, with the reason.
"""

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch

from export.backends import Encode
from protos.features import Arrays
from train.towers import Tower

REASON_LENGTH = 200  # characters


@dataclass(frozen=True)
class Compiled:
    """A tower compiled for one thread budget.

    Args:
        encode: arrays -> vectors (B, D).
        seconds: that compiling took; less where torch finds in its cache on disk what it has made before.
    """

    encode: Encode
    seconds: float


def compiled(tower: Tower, examples: Sequence[Arrays]) -> Compiled | str:
    """A tower compiled for any batch and length, or why it is not.

    Args:
        tower: for inference; it is compiled for torch's present number of threads.
        examples: inputs of one record, and of several: one alone is a case of its own to the compiler.
    """
    torch._dynamo.reset()
    begun = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the compiler's own making
            module = torch.compile(tower, dynamic=True, options={"compile_threads": 1})

            @torch.inference_mode()
            def encode(arrays: Arrays) -> npt.NDArray[Any]:
                inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
                vectors: npt.NDArray[Any] = module(inputs).numpy()
                return vectors

            for arrays in examples:
                encode(arrays)
    except Exception as error:  # which errors a compiler raises is not told
        text = str(error).strip().partition("\n")[0]
        return f"{type(error).__name__}: {text}"[:REASON_LENGTH]
    return Compiled(encode, time.perf_counter() - begun)
