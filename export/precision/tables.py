"""Embedding tables of a graph in half precision, or as int8 rows with a scale each.

A table is most of a tower's file, and reading its rows is most of the time that a short text takes. Only the
rows are stored in fewer bits; what is computed is computed in float32.

Where the rows are summed with weights that are looked up by the same indices, a row's scale is multiplied
into its weight, and int8 costs one node, the Cast behind the look-up. Elsewhere the scales are looked up
beside the rows.
"""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.lean import Graph
from protos.vectors import int8_rows

Stored = Literal["fp16", "int8"]
Table = npt.NDArray[np.float32]

LEAST_BYTES = 64 * 2**10  # in float32; what is smaller is in the caches anyway
LEAST_WIDTH = 4  # of a row


def is_table(bytes_: int, width: int) -> bool:
    """Whether float32 rows (V, H) that are only looked up are worth storing in fewer bits."""
    return bytes_ >= LEAST_BYTES and width >= LEAST_WIDTH


def rounded_table(table: Table, stored: Stored) -> Table:
    """A table (V, H) as float32 again, once it has been stored in fewer bits."""
    if stored == "fp16":
        return _halved(table).astype(np.float32)
    rows, scales = int8_rows(table)
    return rows * scales[:, None]


def tables_of(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of a graph's embedding tables.

    One is read by look-ups of its rows alone, and no row decides which others are looked up: that keeps the
    table of symbols exact, from which hashes are made.
    """
    graph = Graph(model.graph)
    deciding = _deciding(graph)
    found = []
    for name, constant in graph.constants.items():
        if constant.data_type != TensorProto.FLOAT or len(constant.dims) != 2:
            continue
        readers = graph.consumers(name)
        looked_up = all(_looks_up(node, name) and node.output[0] not in deciding for node in readers)
        if readers and looked_up and is_table(4 * int(np.prod(constant.dims)), constant.dims[1]):
            found.append(name)
    return tuple(found)


def with_stored_tables(model: onnx.ModelProto, stored: Stored) -> onnx.ModelProto:
    """The model with its tables in fewer bits; `model` itself stays as it is."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    names = tables_of(changed)
    graph = Graph(changed.graph)
    del changed.graph.value_info[:]  # which tells of types that are no longer
    for name in names:
        table = numpy_helper.to_array(graph.constants[name])
        rows, scales = int8_rows(table) if stored == "int8" else (_halved(table), None)
        for gather in [node for node in graph.consumers(name) if _looks_up(node, name)]:
            _widen(graph, gather, name, scales)
        graph.constants[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(rows), name))
    graph.drop_unused()
    onnx.checker.check_model(changed)
    return changed


def _halved(table: Table) -> npt.NDArray[np.float16]:
    most = np.finfo(np.float16).max
    return np.clip(table, -most, most).astype(np.float16)


def _looks_up(node: onnx.NodeProto, table: str) -> bool:
    axis = next((each.i for each in node.attribute if each.name == "axis"), 0)
    return node.op_type == "Gather" and axis == 0 and list(node.input).index(table) == 0


def _deciding(graph: Graph) -> set[str]:
    """Values that some look-up's indices are computed from."""
    producers = {name: node for node in graph.graph.node for name in node.output}
    found: set[str] = set()
    open_ = [node.input[1] for node in graph.graph.node if node.op_type == "Gather"]
    while open_:
        name = open_.pop()
        if name not in found:
            found.add(name)
            open_ += list(producers[name].input) if name in producers else []
    return found


def _widen(graph: Graph, gather: onnx.NodeProto, table: str, scales: Table | None) -> None:
    """Bring looked-up rows back to float32, and to their scale if they have one."""
    rows = gather.output[0]
    stored, wide = f"{rows}.stored", rows
    folded = scales is None or _scale_weights(graph, gather, table, scales)
    gather.output[0] = stored
    added = []
    if not folded:
        wide, own, scale = f"{rows}.whole", f"{table}.scales", f"{rows}.scales"
        if own not in graph.constants:
            assert scales is not None
            graph.constant(scales[:, None], own)
        added += [
            helper.make_node("Gather", [own, gather.input[1]], [scale], name=scale),
            helper.make_node("Mul", [wide, scale], [rows], name=f"{rows}.scaled"),
        ]
    added.insert(0, helper.make_node("Cast", [stored], [wide], name=f"{rows}.wide", to=TensorProto.FLOAT))
    _insert(graph, added, list(graph.graph.node).index(gather) + 1)


def _scale_weights(graph: Graph, gather: onnx.NodeProto, table: str, scales: Table) -> bool:
    """Multiply the scales into the weights that a product sums the rows with; whether there are such.

    What leads from the look-up of the weights to the product is copied, for others may read it: text that
    two tables are looked up by is weighted once.
    """
    readers = graph.consumers(gather.output[0])
    if len(readers) != 1 or readers[0].op_type != "MatMul" or readers[0].input[1] != gather.output[0]:
        return False
    product, same = readers[0], _rows_of(graph, gather.input[1])
    path = next(_to_weights(graph, product.input[0], same, len(scales)), None)
    if path is None:
        return False
    before = path[0].input[0]
    weights = numpy_helper.to_array(graph.constants[before])
    value, copies = graph.constant(weights * scales, f"{before}.of.{table}"), []
    for node in path:
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        copied.name, copied.output[0] = f"{node.output[0]}.of.{table}", f"{node.output[0]}.of.{table}"
        copied.input[list(node.input).index(before)] = value
        before, value = node.output[0], copied.output[0]
        copies.append(copied)
    product.input[0] = value
    _insert(graph, copies, list(graph.graph.node).index(product))
    return True


def _to_weights(graph: Graph, value: str, rows: str, count: int) -> Iterator[list[onnx.NodeProto]]:
    """Ways from a look-up of weights (V,) by the same rows to a value, over products alone."""
    node = graph.producer(value)
    if node is None:
        return
    if node.op_type == "Gather":
        weights = graph.values(node.input[0])
        if weights is not None and weights.shape == (count,) and _rows_of(graph, node.input[1]) == rows:
            yield [node]
    elif node.op_type in ("Unsqueeze", "Squeeze", "Mul"):
        for source in node.input[: 2 if node.op_type == "Mul" else 1]:
            for path in _to_weights(graph, source, rows, count):
                yield [*path, node]


def _rows_of(graph: Graph, index: str) -> str:
    """The value that indices are, whatever dimensions of size 1 it was given or lost."""
    node = graph.producer(index)
    while node is not None and node.op_type in ("Unsqueeze", "Squeeze"):
        index = node.input[0]
        node = graph.producer(index)
    return index


def _insert(graph: Graph, nodes: list[Any], place: int) -> None:
    for n, node in enumerate(nodes):
        graph.graph.node.insert(place + n, node)
