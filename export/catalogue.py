"""All items through the ONNX item tower, in batches of like length."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from export.backends import Encode
from protos.features import HistoryFeature, TextFeature, TowerInputs
from train.observer import progress_bar

BATCH = 64


def encode_all(
    encode: Encode,
    inputs: TowerInputs,
    values: Mapping[str, Sequence[Any]],
    console: Console,
    title: str,
) -> npt.NDArray[np.float32]:
    """Vectors (N, D) of all records, in their order.

    Texts and histories of like length go together, so that little is spent on padding.
    """
    total = len(next(iter(values.values())))
    order = np.argsort(_lengths(inputs, values, total), kind="stable")
    vectors: npt.NDArray[np.float32] | None = None
    with progress_bar(console) as progress:
        task = progress.add_task(title, total=total, note="")
        for at in range(0, total, BATCH):
            rows = order[at : at + BATCH]
            chunk = {name: [column[row] for row in rows] for name, column in values.items()}
            encoded = encode(inputs.to_arrays(chunk))
            if vectors is None:
                vectors = np.empty((total, encoded.shape[1]), np.float32)
            vectors[rows] = encoded
            progress.update(task, advance=len(rows))
    assert vectors is not None
    return vectors


def _lengths(inputs: TowerInputs, values: Mapping[str, Sequence[Any]], total: int) -> npt.NDArray[np.int64]:
    lengths = np.zeros(total, np.int64)
    for name, spec in inputs.features.items():
        if isinstance(spec, TextFeature | HistoryFeature):
            lengths += np.array([min(len(each), spec.max_length) for each in values[name]])
    return lengths
