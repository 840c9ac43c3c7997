"""A pytest plugin that rounds the vectors of towers differently in batches of different sizes.

    python -m pytest -p tests.helpers.rounding tests/serving/retrieval

The last bits of a float32 product depend on the kernel, and the kernel depends on the processor and on the
size of the batch. A test that expects equal bits from two batches may pass where it was written and fail on
another processor. With this plugin it fails everywhere. Batches of one size are rounded alike, since equal
bits are promised for the same batch in the same process (`protos/nearest/scores.py`).
"""

import contextlib
from typing import Any

import numpy as np
import numpy.typing as npt

STEP = 2.0**-22  # largest relative change of a coordinate: two units in the last place


def factors(rows: int, columns: int) -> npt.NDArray[np.float32]:
    """Float32 (rows, columns) near 1, which depend on the number of rows."""
    row, column = np.arange(rows)[:, None], np.arange(columns)[None]
    mixed = (row * 7919 + column * 104_729 + rows * 15_485_863) * 2_654_435_761 % 2**32
    return ((mixed >> 7) % 3 * STEP + (1 - STEP)).astype(np.float32)


class _Session:
    """The inner session of ONNX Runtime, with vectors that are rounded differently."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, names: Any, arrays: Any, options: Any = None) -> list[Any]:
        return [
            each * factors(*each.shape) if each.dtype == np.float32 and each.ndim == 2 else each
            for each in self._session.run(names, arrays, options)
        ]


def _change_onnx_runtime() -> None:
    from twinspire.serving import environment  # noqa: F401  # before ONNX Runtime is imported

    # isort: split
    import onnxruntime

    create = onnxruntime.InferenceSession.__init__

    def created(session: Any, *arguments: Any, **options: Any) -> None:
        create(session, *arguments, **options)
        session._sess = _Session(session._sess)

    onnxruntime.InferenceSession.__init__ = created


def _change_towers() -> None:
    import torch

    from twinspire.train.models.towers import Tower

    call = Tower.__call__

    def called(tower: Tower, *arguments: Any, **options: Any) -> Any:
        vectors = call(tower, *arguments, **options)
        if torch.compiler.is_exporting() or type(vectors) is not torch.Tensor or not vectors.is_cpu:
            return vectors
        return vectors * torch.from_numpy(factors(*vectors.shape))

    Tower.__call__ = called  # type: ignore[method-assign]


def pytest_sessionstart() -> None:
    """Change both runtimes, after `tests/conftest.py` has set variables that they read at import."""
    _change_onnx_runtime()
    with contextlib.suppress(ModuleNotFoundError):  # the tests of serving run without torch
        _change_towers()
