"""Variants of a tower whose embedding tables are in lower precision: ONNX files, and torch towers.

A table is most of a tower's file, and reading its rows takes most of the time of a short text. Only the rows
are stored in lower precision; computation stays in float32.

If rows are summed with weights that are looked up by the same indices, the scale of a row is multiplied into
its weight, and int8 costs one more node, the Cast after the look-up. Otherwise the scales are looked up
beside the rows.

To add a variant, add its name to `protos.bundle.TableVariant`, and how its tables are stored to `STORED`.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from twinspire.export.onnx.export import frozen
from twinspire.export.onnx.optimize import Graph
from twinspire.protos.bundle import TableVariant, Variant
from twinspire.protos.nearest.vectors import BLOCK, int8_rows
from twinspire.train.models.towers import Tower

Stored = Literal["fp16", "int8"]
Table = npt.NDArray[np.float32]

MIN_BYTES = 64 * 2**10  # of a table in float32; a smaller one fits into the processor's caches
MIN_WIDTH = 4  # of a row
VARIANTS: tuple[TableVariant, ...] = get_args(TableVariant)
STORED: Mapping[Variant, Stored | None] = {
    "fp32": None,
    "fp16_tables": "fp16",
    "int8_tables": "int8",
    "int8_dynamic": "int8",  # of bundles of earlier versions, as the next
    "int8_static": "int8",
}
"""Variant -> how its embedding tables are stored; None in float32."""


def make_variants(plain: Path, folder: Path) -> dict[TableVariant, Path]:
    """Write the variants of a tower as `<its name>-<variant>.onnx`: name -> ONNX file, float32 included.

    Of a tower that has no table to store there is float32 alone.

    Args:
        plain: the tower in float32; it is not changed.
        folder: receives the other variants.
    """
    model, files = onnx.load(plain), {VARIANTS[0]: plain}
    for name in VARIANTS if tables_of(model) else ():
        stored = STORED[name]
        if stored is not None:
            files[name] = folder / f"{plain.stem}-{name}.onnx"
            onnx.save_model(with_stored_tables(model, stored), files[name])
    return files


def round_tables(tower: Tower, variant: Variant) -> Tower:
    """A copy for inference whose tables are rounded as in a variant's file.

    What rounding costs shows in the quality. With equal tables, torch and ONNX Runtime have to agree as they
    do in float32. A table that several encoders share stays shared.
    """
    copied = frozen(tower)
    stored = STORED[variant]
    if stored is not None:
        for table in _tables_of_tower(copied):  # all rows at once would take several times the table
            for rows in (table[at : at + BLOCK] for at in range(0, len(table), BLOCK)):
                rows.copy_(torch.from_numpy(rounded_table(rows.numpy(), stored)))
    return copied


def rounded_table(table: Table, stored: Stored) -> Table:
    """The float32 values of a table (V, H) after it was stored in lower precision."""
    if stored == "fp16":
        return _to_fp16(table).astype(np.float32)
    rows, scales = int8_rows(table)
    return rows * scales[:, None]


def tables_of(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of a graph's embedding tables.

    A table counts if only look-ups of rows read it, and if its rows do not determine the indices of another
    look-up: the symbol table that hashes are computed from must stay exact.
    """
    graph = Graph(model.graph)
    index_sources = _index_sources(graph)
    found = []
    for name, constant in graph.constants.items():
        if constant.data_type != TensorProto.FLOAT or len(constant.dims) != 2:
            continue
        readers = graph.consumers(name)
        looked_up = all(_looks_up(node, name) and node.output[0] not in index_sources for node in readers)
        if readers and looked_up and _is_table(*constant.dims):
            found.append(name)
    return tuple(found)


def with_stored_tables(model: onnx.ModelProto, stored: Stored) -> onnx.ModelProto:
    """A copy of the model with its tables in lower precision."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    names = tables_of(changed)
    graph = Graph(changed.graph)
    del changed.graph.value_info[:]  # its types are out of date
    for name in names:
        table = numpy_helper.to_array(graph.constants[name])
        rows, scales = int8_rows(table) if stored == "int8" else (_to_fp16(table), None)
        for gather in [node for node in graph.consumers(name) if _looks_up(node, name)]:
            _widen(graph, gather, name, scales)
        graph.constants[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(rows), name))
    graph.drop_unused()
    onnx.checker.check_model(changed)
    return changed


def _to_fp16(table: Table) -> npt.NDArray[np.float16]:
    largest = np.finfo(np.float16).max
    return np.clip(table, -largest, largest).astype(np.float16)


def _looks_up(node: onnx.NodeProto, table: str) -> bool:
    axis = next((each.i for each in node.attribute if each.name == "axis"), 0)
    return node.op_type == "Gather" and axis == 0 and list(node.input).index(table) == 0


def _index_sources(graph: Graph) -> set[str]:
    """Values that the indices of some look-up are computed from."""
    producers = {name: node for node in graph.graph.node for name in node.output}
    found: set[str] = set()
    pending = [node.input[1] for node in graph.graph.node if node.op_type == "Gather"]
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending += list(producers[name].input) if name in producers else []
    return found


def _widen(graph: Graph, gather: onnx.NodeProto, table: str, scales: Table | None) -> None:
    """Convert looked-up rows to float32, and multiply them by their scales if there are any."""
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
    """Multiply the scales into the weights of the product that sums the rows; returns whether there is one.

    The nodes from the look-up of the weights to the product are copied, because other products may read them:
    two tables that are looked up by the same text share its weights.
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
    """Paths from a look-up of weights (V,) by the same rows to a value, through products only."""
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
    """The source of an index value, before dimensions of size 1 were added or removed."""
    node = graph.producer(index)
    while node is not None and node.op_type in ("Unsqueeze", "Squeeze"):
        index = node.input[0]
        node = graph.producer(index)
    return index


def _insert(graph: Graph, nodes: list[Any], place: int) -> None:
    for n, node in enumerate(nodes):
        graph.graph.node.insert(place + n, node)


def _is_table(rows: int, width: int) -> bool:
    """Whether a float32 table (V, H) is large enough to be worth storing in lower precision."""
    return 4 * rows * width >= MIN_BYTES and width >= MIN_WIDTH


def _tables_of_tower(tower: Tower) -> list[Tensor]:
    """The parameters whose rows are looked up, each once."""
    found: dict[int, Tensor] = {}
    for part in tower.modules():
        for table in _tables_of_encoder(part):
            if table.ndim == 2 and _is_table(*table.shape):
                found[id(table)] = table
    return list(found.values())


def _tables_of_encoder(part: nn.Module) -> list[Tensor]:
    """The tables of an encoder: the weights of an `nn.Embedding`, or its attributes `table` and `tables`."""
    if isinstance(part, nn.Embedding):
        return [part.weight]
    several = getattr(part, "tables", None)
    tables = [
        getattr(part, "table", None),
        *(several.values() if isinstance(several, nn.ParameterDict) else ()),
    ]
    return [table for table in tables if isinstance(table, Tensor)]
