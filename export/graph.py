"""A tower as one ONNX file: raw arrays in, vectors out, batch and length free.

The exported module is the trained one; nothing is written a second time.
"""

import copy
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxscript  # noqa: F401 - torch.onnx needs it; its version counts in the key of a bundle
import torch
from torch import Tensor, nn

from export.lean import lean
from protos.features import Arrays, FeatureSpec, IdFeature, NumberFeature
from train.towers import Tower

OUTPUT = "vector"


class Positional(nn.Module):
    """A tower that takes its features one by one, in the order of their names given here."""

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


def export_tower(tower: Tower, features: Mapping[str, FeatureSpec], example: Arrays, path: Path) -> int:
    """Write a tower as ONNX, made lean; gives the number of nodes.

    Args:
        features: of the tower's side; they name the graph's inputs, in this order.
        example: input arrays of at least two records; what they hold does not matter.
        path: of the file; weights are inside it.
    """
    model = lean(_without_traces(as_exported(tower, features, example)))
    onnx.checker.check_model(model)
    onnx.save_model(model, path)
    return len(model.graph.node)


def as_exported(tower: Tower, features: Mapping[str, FeatureSpec], example: Arrays) -> onnx.ModelProto:
    """A tower as torch's exporter leaves it; arguments as of `export_tower`."""
    names = tuple(features)
    shapes = tuple(_free_dimensions(name, spec) for name, spec in features.items())
    arrays = tuple(torch.from_numpy(_wide(example[name], features[name])) for name in names)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter's own making, not of the tower's
        program = torch.onnx.export(
            Positional(tower, names),
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
    if isinstance(spec, NumberFeature | IdFeature):
        return {0: "batch"}
    return {0: "batch", 1: f"{name}_length"}


def _wide(array: Any, spec: FeatureSpec) -> Any:
    """The example with a free length of at least 2: the exporter takes 0 and 1 for constants."""
    short = 0 if isinstance(spec, NumberFeature | IdFeature) else max(0, 2 - array.shape[1])
    return np.pad(array, ((0, 0), (short, 0)))


def _without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without the exporter's notes of source files and lines, which tell of the machine it ran on."""
    messages: list[Any] = [model, model.graph, *model.graph.node, *model.graph.value_info]
    messages += [*model.graph.input, *model.graph.output, *model.graph.initializer]
    for message in messages:
        del message.metadata_props[:]
        message.doc_string = ""
    del model.functions[:]
    return model
