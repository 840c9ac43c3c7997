"""Copies of a bundle that are altered and sealed again, so that every file is what its manifest says."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.helpers.tampered import reseal
from twinspire.export.release.gate import ComparedVersion
from twinspire.protos import bundle

altered = reseal


def side(version: str, folder: Path) -> ComparedVersion:
    """A bundle as a model version."""
    return ComparedVersion(version, folder, bundle.read(folder))


def with_ef(folder: Path, ef_search: int) -> dict[str, Any]:
    """The field of a manifest that says how wide the index is searched."""
    return {"index": dataclasses.replace(bundle.read(folder).index, ef_search=ef_search)}


def disturb(folder: Path, share: float = 0.02) -> None:
    """Add noise to the largest table of weights of the query tower, as much as a share of their spread."""
    model = onnx.load(folder / bundle.QUERY_TOWER)
    (weights,) = sorted(
        (
            each
            for each in model.graph.initializer
            if each.data_type == TensorProto.FLOAT and not each.name.endswith("symbols")
        ),
        key=lambda each: int(np.prod(each.dims)),
    )[-1:]
    values = numpy_helper.to_array(weights)
    noise = np.random.default_rng(0).normal(scale=share * values.std(), size=values.shape)
    weights.CopyFrom(numpy_helper.from_array((values + noise).astype(np.float32), weights.name))
    onnx.save(model, folder / bundle.QUERY_TOWER)


def slow_down(folder: Path, layers: int = 16, width: int = 2048) -> None:
    """Give the query tower work that changes nothing of its output."""
    model = onnx.load(folder / bundle.QUERY_TOWER)
    graph = model.graph
    (output,) = graph.output
    dimension = output.type.tensor_type.shape.dim[1].dim_value
    for node in graph.node:
        node.output[:] = ["before" if name == output.name else name for name in node.output]
        node.input[:] = ["before" if name == output.name else name for name in node.input]
    up = np.full((dimension, width), 1e-3, np.float32)
    graph.initializer.extend(
        [
            numpy_helper.from_array(up, "up"),
            numpy_helper.from_array(up.T.copy(), "down"),
            numpy_helper.from_array(np.zeros(1, np.float32), "nothing"),
        ]
    )
    last = "before"
    for n in range(layers):
        graph.node.append(helper.make_node("MatMul", [last, "up"], [f"wide{n}"]))
        graph.node.append(helper.make_node("Tanh", [f"wide{n}"], [f"bent{n}"]))
        graph.node.append(helper.make_node("MatMul", [f"bent{n}", "down"], [f"narrow{n}"]))
        last = f"narrow{n}"
    graph.node.append(helper.make_node("Mul", [last, "nothing"], ["zero"]))
    graph.node.append(helper.make_node("Add", ["before", "zero"], [output.name]))
    onnx.save(model, folder / bundle.QUERY_TOWER)


def swell(folder: Path, size: int, name: str = bundle.QUERY_TOWER) -> None:
    """Let a tower make a tensor of `size` bytes for each batch, which changes nothing of its output."""
    model = onnx.load(folder / name)
    graph = model.graph
    (output,) = graph.output
    for node in graph.node:
        node.output[:] = ["before" if each == output.name else each for each in node.output]
        node.input[:] = ["before" if each == output.name else each for each in node.input]
    shape = np.array([size // 4096, 1024], np.int64)
    graph.initializer.append(numpy_helper.from_array(shape, "huge_shape"))
    graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "nothing"))
    for operator, inputs, made in (
        ("ReduceMax", ["before"], "largest"),
        ("Expand", ["largest", "huge_shape"], "huge"),
        ("ReduceMax", ["huge"], "again"),
        ("Mul", ["again", "nothing"], "zero"),
        ("Add", ["before", "zero"], output.name),
    ):
        options: dict[str, Any] = {"keepdims": 1} if operator == "ReduceMax" else {}
        graph.node.append(helper.make_node(operator, inputs, [made], **options))
    onnx.save(model, folder / name)


def truncate(folder: Path, name: str = bundle.QUERY_TOWER) -> None:
    """Leave half of a file."""
    path = folder / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def mislead(folder: Path) -> None:
    """Let a link of the graph lead far outside of it."""
    links = np.load(folder / bundle.LINKS)
    links[0, 0] = 2**31 - 1
    np.save(folder / bundle.LINKS, links)


def annotate(folder: Path) -> None:
    """Add a report that changes nothing but the bundle's version."""
    (folder / bundle.REPORTS / "note.json").write_text("{}\n")
