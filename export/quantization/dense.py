"""Dense layers of an ONNX graph in int8, by ONNX Runtime's quantiser.

`dynamic` computes the range of a layer's inputs in each call; `static` takes it from training records. Only
products with constant weights are quantised. Hashing is a convolution and stays exact; layer norms, softmax
and number features stay in float32.

Weights have seven bits and one scale per output. Processors without VNNI add up products in 16 bits, which
would overflow with eight bits, and quality would depend on the processor.
"""

import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

from export.onnx.optimize import Graph
from protos.features import Arrays

MIN_SIZE = 16  # inputs and outputs of a layer; the layer of a number feature has two inputs
KINDS = ("MatMul", "Gemm")


def dense_layers(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the nodes that multiply by constant float32 weights."""
    graph = Graph(model.graph)
    found = []
    for node in model.graph.node:
        weights = graph.constants.get(node.input[1]) if node.op_type in KINDS else None
        if weights is None or weights.data_type != TensorProto.FLOAT or len(weights.dims) != 2:
            continue
        if min(weights.dims) >= MIN_SIZE:
            found.append(node.name)
    return tuple(found)


def dynamic(model: onnx.ModelProto, path: Path) -> None:
    """Write the model with dense layers in int8, with the range of inputs computed in each call."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    layers = dense_layers(model)
    with _unchanged_logging(), tempfile.TemporaryDirectory(prefix="twinspire-int8-") as scratch:
        written = Path(scratch) / "dynamic.onnx"
        quantize_dynamic(
            _prepared(model),
            written,
            op_types_to_quantize=["MatMul"],  # the quantiser turns a Gemm into a MatMul of another name
            nodes_to_quantize=[*layers, *(f"{name}_MatMul" for name in layers)],
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
        )
        _save_clean(written, path)


def static(model: onnx.ModelProto, path: Path, calibration: Iterable[Arrays]) -> None:
    """Write the model with dense layers in int8, with the range of inputs taken from records.

    Args:
        calibration: batches of input arrays.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with _unchanged_logging(), tempfile.TemporaryDirectory(prefix="twinspire-int8-") as scratch:
        written = Path(scratch) / "static.onnx"
        quantize_static(
            _prepared(model),
            written,
            _reader(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(KINDS),
            nodes_to_quantize=list(dense_layers(model)),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            extra_options={"OpTypesToExcludeOutputQuantization": list(KINDS)},
        )
        _save_clean(written, path)


@contextmanager
def _unchanged_logging() -> Iterator[None]:
    """Undo what the quantiser does to logging: it adds handlers to the root logger."""
    root = logging.getLogger()
    handlers = [*root.handlers]
    try:
        yield
    finally:
        root.handlers[:] = handlers


def _reader(calibration: Iterable[Arrays]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Returns batches, then None."""

        def __init__(self) -> None:
            self.batches: Iterator[Arrays] = iter(calibration)

        def get_next(self) -> Arrays | None:
            return next(self.batches, None)

    return Reader()


def _prepared(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy marked as preprocessed; without the mark the quantiser logs a warning."""
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    add_pre_process_metadata(copied)
    return copied


def _save_clean(written: Path, path: Path) -> None:
    """Save the quantiser's model without its metadata."""
    model = onnx.load(written)
    del model.metadata_props[:]
    del model.graph.value_info[:]
    onnx.checker.check_model(model)
    onnx.save_model(model, path)
