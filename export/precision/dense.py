"""Dense layers of a graph in int8, by ONNX Runtime's quantiser.

`dynamic` finds the range of a layer's inputs in each call; `static` has taken it from training records. Only
products with constant weights are touched: hashing is a convolution, and stays exact; layer norms, softmax
and numbers stay in float32.

Weights have seven bits, one scale an output: processors without VNNI add up products in 16 bits, which eight
bits overflow, and then the quality that was measured here would not be the one that is served there.
"""

import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

from export.lean import Graph
from protos.features import Arrays

LEAST_SIZE = 16  # inputs and outputs of a layer; a number's map has two inputs
KINDS = ("MatMul", "Gemm")


def dense_layers(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the nodes that multiply with constant weights in float32."""
    graph = Graph(model.graph)
    found = []
    for node in model.graph.node:
        weights = graph.constants.get(node.input[1]) if node.op_type in KINDS else None
        if weights is None or weights.data_type != TensorProto.FLOAT or len(weights.dims) != 2:
            continue
        if min(weights.dims) >= LEAST_SIZE:
            found.append(node.name)
    return tuple(found)


def dynamic(model: onnx.ModelProto, path: Path) -> None:
    """Write the model with dense layers in int8, the range of whose inputs is found in each call."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    layers = dense_layers(model)
    with _log_left_alone(), tempfile.TemporaryDirectory(prefix="twinspire-int8-") as scratch:
        written = Path(scratch) / "dynamic.onnx"
        quantize_dynamic(
            _prepared(model),
            written,
            op_types_to_quantize=["MatMul"],  # which a Gemm is made into, with another name
            nodes_to_quantize=[*layers, *(f"{name}_MatMul" for name in layers)],
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
        )
        _put_down(written, path)


def static(model: onnx.ModelProto, path: Path, calibration: Iterable[Arrays]) -> None:
    """Write the model with dense layers in int8, the range of whose inputs is that of some records.

    Args:
        calibration: input arrays, batch after batch.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with _log_left_alone(), tempfile.TemporaryDirectory(prefix="twinspire-int8-") as scratch:
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
        _put_down(written, path)


@contextmanager
def _log_left_alone() -> Iterator[None]:
    """The quantiser configures the log of the whole program, and then every library is heard."""
    root = logging.getLogger()
    handlers = [*root.handlers]
    try:
        yield
    finally:
        root.handlers[:] = handlers


def _reader(calibration: Iterable[Arrays]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Batch after batch, then None."""

        def __init__(self) -> None:
            self.batches: Iterator[Arrays] = iter(calibration)

        def get_next(self) -> Arrays | None:
            return next(self.batches, None)

    return Reader()


def _prepared(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that says that it needs no preparation, which the quantiser would ask for on the log."""
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    add_pre_process_metadata(copied)
    return copied


def _put_down(written: Path, path: Path) -> None:
    """The quantiser's file without its notes."""
    model = onnx.load(written)
    del model.metadata_props[:]
    del model.graph.value_info[:]
    onnx.checker.check_model(model)
    onnx.save_model(model, path)
