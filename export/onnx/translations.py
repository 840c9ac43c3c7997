"""ONNX operators for operators of our own, which torch's exporter does not know."""

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset18 as op

import train.models.recurrent  # noqa: F401 - registers the operator


def _lstm(words: Any, weights: Any, recurrence: Any, bias: Any, hidden: int) -> Any:
    """`train.models.recurrent.lstm` as ONNX's LSTM, which reads (W, B, H) and gives (W, 1, B, D)."""
    states, _, _ = op.LSTM(op.Transpose(words, perm=[1, 0, 2]), weights, recurrence, bias, hidden_size=hidden)
    axis: Any = op.Constant(value_ints=[1])
    return op.Transpose(op.Squeeze(states, axis), perm=[1, 0, 2])


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {torch.ops.twinspire.lstm.default: _lstm}
