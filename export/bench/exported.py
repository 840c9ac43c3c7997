"""A tower as torch's exporter leaves it, to see what the rewrites of `export.lean` bring."""

import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch

from export.graph import OUTPUT, Positional
from protos.features import Arrays, IdFeature, NumberFeature, TowerInputs
from train.towers import Tower


def export_unchanged(tower: Tower, inputs: TowerInputs, example: Arrays, path: Path) -> None:
    """Write a tower as ONNX, without any rewrite.

    Args:
        tower: for inference.
        example: input arrays of at least two records.
        path: of the file; weights are inside it.
    """
    arrays, shapes = [], []
    for name, spec in inputs.features.items():
        narrow = isinstance(spec, NumberFeature | IdFeature)
        short = 0 if narrow else max(0, 2 - example[name].shape[1])  # 0 and 1 are constants to the exporter
        arrays.append(torch.from_numpy(np.pad(example[name], ((0, 0), (short, 0)))))
        shapes.append({0: "batch"} if narrow else {0: "batch", 1: f"{name}_length"})
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter's own making, not of the tower's
        program = torch.onnx.export(
            Positional(tower, tuple(inputs.features)),
            tuple(arrays),
            input_names=list(inputs.features),
            output_names=[OUTPUT],
            dynamic_shapes={"arrays": tuple(shapes)},
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    onnx.save_model(program.model_proto, path)
