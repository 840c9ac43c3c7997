"""Exports a tower as one ONNX file: raw arrays in, vectors out, with free batch size and lengths.

The trained module itself is exported; there is no second implementation.
"""

import copy
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxscript  # noqa: F401 - torch.onnx uses it, so its version belongs into the key of a bundle
import torch
from torch import Tensor, nn

from twinspire.export.onnx.optimize import optimize
from twinspire.protos.features import Arrays, FeatureSpec
from twinspire.protos.inputs.events import TIMES
from twinspire.train.models.towers import Tower

OUTPUT = "vector"


class PositionalTower(nn.Module):
    """A tower that takes its features as positional arguments, in the order of `names`."""

    def __init__(self, tower: Tower, names: tuple[str, ...]) -> None:
        super().__init__()
        self.tower = tower
        self.names = names

    def forward(self, *arrays: Tensor) -> Tensor:
        """One array for each name -> vectors (B, D)."""
        vectors: Tensor = self.tower(dict(zip(self.names, arrays, strict=True)))
        return vectors


def frozen(tower: Tower) -> Tower:
    """A copy for inference: evaluation mode, no gradients."""
    return copy.deepcopy(tower).eval().requires_grad_(False)


def export_tower(tower: Tower, features: Mapping[str, FeatureSpec], example: Arrays, path: Path) -> None:
    """Write a tower as optimised ONNX.

    Args:
        features: of the tower; the names of their arrays become the graph's inputs, in this order.
        example: input arrays of at least two records, with any values.
        path: of the file, which includes the weights.
    """
    model = optimize(_without_traces(_as_exported(tower, features, example)))
    onnx.checker.check_model(model)
    onnx.save_model(model, path)


def _as_exported(tower: Tower, features: Mapping[str, FeatureSpec], example: Arrays) -> onnx.ModelProto:
    """A tower as torch's exporter returns it, not optimised; arguments as of `export_tower`."""
    specs = {array: spec for name, spec in features.items() for array in spec.arrays(name)}
    names = tuple(specs)
    shapes = tuple(_free_dimensions(name, spec) for name, spec in specs.items())
    arrays = tuple(torch.from_numpy(_lengthened(example[name], specs[name])) for name in names)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # they are about the exporter's internals
        program = torch.onnx.export(
            PositionalTower(tower, names),
            arrays,
            input_names=list(names),
            output_names=[OUTPUT],
            dynamic_shapes={"arrays": shapes},
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def _free_dimensions(name: str, spec: FeatureSpec) -> dict[int, str]:
    length = f"{name.removesuffix(TIMES)}_length"  # a history and its times have the same
    return {0: "batch", 1: length} if spec.variable_length else {0: "batch"}


def _lengthened(array: Any, spec: FeatureSpec) -> Any:
    """The example with a free length of at least 2; the exporter treats lengths 0 and 1 as constants."""
    short = max(0, 2 - array.shape[1]) if spec.variable_length else 0
    return np.pad(array, ((0, 0), (short, 0)))


def _without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove the exporter's notes on source files and lines, which contain paths of this machine."""
    messages: list[Any] = [model, model.graph, *model.graph.node, *model.graph.value_info]
    messages += [*model.graph.input, *model.graph.output, *model.graph.initializer]
    for message in messages:
        del message.metadata_props[:]
        message.doc_string = ""
    del model.functions[:]
    return model
