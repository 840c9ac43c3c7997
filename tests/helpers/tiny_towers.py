"""Tiny towers, made by hand as ONNX graphs.

A text is counted by letters: a code point c adds 1 to coordinate c mod 32. Coordinate 0 is left out, so
padding, NUL and the space count for nothing. A category counts in a coordinate of its own, a number as a
hundredth of itself. A history is the mean of its items' vectors, plus that of the newest once more.
The sum of all that is brought to unit length, unless the tower says otherwise; the zero vector stays.
Of a tower of several interests each further vector is the first, with the letters some places on, and longer:
so each is the nearest of some items.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from twinspire.protos.features import (
    FIRST_KNOWN,
    CategoryFeature,
    FeatureSpec,
    HistoryFeature,
    NumberFeature,
    TextFeature,
)

DIMENSION = 32
TEXT = TextFeature("text", column="text", max_length=64)
PLAIN: Mapping[str, FeatureSpec] = {"text": TEXT}
FULL: Mapping[str, FeatureSpec] = {
    "text": TEXT,
    "country": CategoryFeature("category", column="country"),
    "tags": CategoryFeature("category", column="tags", multi=True),
    "age": NumberFeature("number", column="age"),
}
HISTORY = HistoryFeature("history", max_length=4)
WATCHED: Mapping[str, FeatureSpec] = {
    "history": HISTORY,
    "country": CategoryFeature("category", column="country"),
}
VOCABULARIES = {"query.country": ("de", "fr", "jp"), "query.tags": ("new", "old")}


@dataclass(frozen=True)
class TinyTower:
    """What a tower does with its inputs.

    Args:
        features: that it takes.
        dimension: of its output.
        wraps: code points are taken mod 32; without it, one outside ASCII fails inside the graph.
        output: name of its output.
        unit: the sum of its parts is brought to unit length.
        bias: a constant is added to the sum, so that an empty query has a vector other than zero.
        interests: vectors of a record, side by side.
    """

    features: Mapping[str, FeatureSpec] = field(default_factory=lambda: PLAIN)
    dimension: int = DIMENSION
    wraps: bool = True
    output: str = "vector"
    unit: bool = True
    bias: bool = False
    interests: int = 1


def write_tower(path: Path, tower: TinyTower, items: npt.NDArray[np.float32] | None = None) -> None:
    """Write a tower as an ONNX file; `items` are the vectors (known items, D) that histories are made of."""
    nodes, tables, inputs, sums = [], [], [], []
    for name, spec in tower.features.items():
        part = f"{name}_sum"
        sums.append(part)
        if isinstance(spec, TextFeature):
            inputs.append(helper.make_tensor_value_info(name, TensorProto.INT32, ["batch", "length"]))
            letters = counted_letters(tower)
            nodes += text_nodes(name, part, tower.wraps)
        elif isinstance(spec, CategoryFeature):
            inputs.append(helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", name]))
            letters = np.eye(FIRST_KNOWN + len(VOCABULARIES[f"query.{name}"]), tower.dimension, 3)
            letters[0] = 0
            nodes += gathered_sum(name, part)
        elif isinstance(spec, HistoryFeature):
            inputs.append(helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", name]))
            assert items is not None
            letters = np.vstack([np.zeros((FIRST_KNOWN, tower.dimension)), items])
            nodes += history_nodes(name, part)
        else:
            inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1]))
            letters = np.eye(1, tower.dimension, 9)
            nodes += number_nodes(name, part)
        tables.append(numpy_helper.from_array(letters.astype(np.float32), f"{name}_table"))
    if tower.bias:
        sums.append("bias")
        tables.append(numpy_helper.from_array(np.eye(1, tower.dimension, 5, np.float32), "bias"))
    last = tower.output if tower.interests == 1 else "first_vector"
    nodes += unit_length(sums, last) if tower.unit else [helper.make_node("Sum", sums, [last])]
    if tower.interests > 1:
        nodes.append(helper.make_node("MatMul", [last, "interests"], [tower.output]))
        tables.append(numpy_helper.from_array(interests_of_first(tower), "interests"))
    width = tower.dimension * tower.interests
    output = helper.make_tensor_value_info(tower.output, TensorProto.FLOAT, ["batch", width])
    read = {name for node in nodes for name in node.input}
    used = [value for value in constants() if value.name in read]
    graph = helper.make_graph(nodes, "tiny", inputs, [output], [*tables, *used])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def counted_letters(tower: TinyTower) -> npt.NDArray[Any]:
    """Which coordinate a code point counts in: (code points, D)."""
    table = np.zeros((32 if tower.wraps else 128, tower.dimension))
    for c in range(len(table)):
        table[c, c % 32 % tower.dimension] = c % 32 > 0
    return table


def interests_of_first(tower: TinyTower) -> npt.NDArray[np.float32]:
    """The matrix (D, K * D) that makes all vectors of the first."""
    letters, eye = np.arange(1, 27), np.eye(tower.dimension, dtype=np.float32)
    blocks = [eye]
    for number in range(1, tower.interests):
        order = np.arange(tower.dimension)
        order[letters] = np.roll(letters, 8 * number)
        blocks.append(1.5 * eye[:, order])
    return np.concatenate(blocks, axis=1)


def constants() -> list[onnx.TensorProto]:
    """Values that the nodes refer to by name."""
    values: dict[str, npt.NDArray[Any]] = {
        "letters": np.array(32, np.int32),
        "zero": np.array(0, np.float32),
        "none": np.array(0, np.int64),
        "newest": np.array(-1, np.int64),
        "one": np.array(1, np.float32),
        "hundredth": np.array(0.01, np.float32),
        "least": np.array(1e-6, np.float32),
        "axis": np.array([1], np.int64),
    }
    return [numpy_helper.from_array(value, name) for name, value in values.items()]


def text_nodes(name: str, part: str, wraps: bool) -> list[onnx.NodeProto]:
    """Code points to letter counts."""
    if not wraps:
        return gathered_sum(name, part)
    wrapped = f"{name}_wrapped"
    mod = helper.make_node("Mod", [name, "letters"], [wrapped])
    return [mod, *gathered_sum(name, part, wrapped)]


def gathered_sum(name: str, part: str, indices: str = "") -> list[onnx.NodeProto]:
    """Rows of the feature's table, summed: (B, L) -> (B, D)."""
    gathered = f"{name}_rows"
    return [
        helper.make_node("Gather", [f"{name}_table", indices or name], [gathered]),
        helper.make_node("ReduceSum", [gathered, "axis"], [part], keepdims=0),
    ]


def history_nodes(name: str, part: str) -> list[onnx.NodeProto]:
    """The mean of the items' vectors plus that of the newest, which stands last: (B, L) -> (B, D)."""
    total, known, count, newest = (f"{name}_{each}" for each in ("total", "known", "count", "newest"))
    return [
        *gathered_sum(name, total),
        helper.make_node("Greater", [name, "none"], [known]),
        helper.make_node("Cast", [known], [f"{known}_float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", [f"{known}_float", "axis"], [count], keepdims=1),
        helper.make_node("Max", [count, "one"], [f"{count}_least"]),
        helper.make_node("Div", [total, f"{count}_least"], [f"{name}_mean"]),
        helper.make_node("Gather", [name, "newest"], [newest], axis=1),
        helper.make_node("Gather", [f"{name}_table", newest], [f"{newest}_row"]),
        helper.make_node("Add", [f"{name}_mean", f"{newest}_row"], [part]),
    ]


def number_nodes(name: str, part: str) -> list[onnx.NodeProto]:
    """A hundredth of the number in one coordinate, 0 where it is absent."""
    return [
        helper.make_node("IsNaN", [name], [f"{name}_absent"]),
        helper.make_node("Where", [f"{name}_absent", "zero", name], [f"{name}_present"]),
        helper.make_node("Mul", [f"{name}_present", "hundredth"], [f"{name}_scaled"]),
        helper.make_node("MatMul", [f"{name}_scaled", f"{name}_table"], [part]),
    ]


def unit_length(sums: list[str], output: str) -> list[onnx.NodeProto]:
    """The sum of the parts, brought to unit length; the zero vector stays what it is."""
    return [
        helper.make_node("Sum", sums, ["sum"]),
        helper.make_node("ReduceL2", ["sum", "axis"], ["norm"], keepdims=1),
        helper.make_node("Max", ["norm", "least"], ["divisor"]),
        helper.make_node("Div", ["sum", "divisor"], [output]),
    ]
