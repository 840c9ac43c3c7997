"""Rewrites that reduce the number of nodes in an exported graph.

A tower takes a few microseconds, and each node costs about half a microsecond whatever it computes, so fewer
nodes are faster. Each rewrite is exact except for rounding.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper


def optimize(model: onnx.ModelProto) -> onnx.ModelProto:
    """Apply all rewrites to the model, in place."""
    graph = Graph(model.graph)
    _gather_scalars(graph)
    _gather_in_place(graph)
    _pad_in_pooling(graph)
    _bounded_above(graph)
    _normalise(graph)
    _copied_dimensions(graph)
    _scaled_layer(graph)
    _shifted_norm(graph)
    graph.drop_unused()
    return model


class Graph:
    """A graph with look-ups by name, for rewrites."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.constants = {each.name: each for each in graph.initializer}

    def consumers(self, name: str) -> list[onnx.NodeProto]:
        """The nodes that read a value."""
        return [node for node in self.graph.node if name in node.input]

    def producer(self, name: str) -> onnx.NodeProto | None:
        """The node that computes a value; None for an input or a constant."""
        return next((node for node in self.graph.node if name in node.output), None)

    def values(self, name: str) -> npt.NDArray[Any] | None:
        """The values of a constant; None if the name is not a constant."""
        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def constant(self, values: npt.NDArray[Any], name: str) -> str:
        """Add a constant and return its name."""
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        self.graph.initializer.append(self.constants[name])
        return name

    def sole_producer(self, node: onnx.NodeProto, place: int, kind: str) -> onnx.NodeProto | None:
        """The node that computes the input at `place`, if it is of this kind and has no other consumer."""
        found = self.producer(node.input[place])
        alone = found is not None and len(self.consumers(node.input[place])) == 1
        return found if found is not None and alone and found.op_type == kind else None

    def absorb(self, node: onnx.NodeProto, later: onnx.NodeProto) -> None:
        """Remove `later`, the only consumer of `node`; `node` computes its output instead."""
        node.output[0] = later.output[0]
        self.graph.node.remove(later)

    def dimensions(self, name: str) -> list[str | int]:
        """For each dimension of a value its size, the name of a free dimension, or empty if unknown."""
        infos = (each for each in (*self.graph.input, *self.graph.value_info) if each.name == name)
        return [d.dim_param or d.dim_value or "" for each in infos for d in each.type.tensor_type.shape.dim]

    def drop_unused(self) -> None:
        """Remove nodes and constants that no node reads."""
        outputs = {output.name for output in self.graph.output}
        while True:
            read = outputs | {name for node in self.graph.node for name in node.input}
            unused = [node for node in self.graph.node if not read.intersection(node.output)]
            if not unused:
                break
            for node in unused:
                self.graph.node.remove(node)
        for constant in [each for each in self.graph.initializer if each.name not in read]:
            self.graph.initializer.remove(constant)


def _gather_scalars(graph: Graph) -> None:
    """Gather from a (V, 1) table, then Squeeze -> Gather from a (V,) table."""
    for gather in [node for node in graph.graph.node if node.op_type == "Gather"]:
        column = graph.constants.get(gather.input[0])
        source = graph.producer(gather.input[0])
        if column is None and source is not None and source.op_type == "Unsqueeze":
            flat = graph.constants.get(source.input[0])
        else:
            flat = column
        after = graph.consumers(gather.output[0])
        if flat is None or [node.op_type for node in after] != ["Squeeze"]:
            continue
        name = f"{flat.name}.flat"
        if name not in graph.constants:
            values = numpy_helper.to_array(flat)
            if values.size != max(values.shape):
                continue
            constant = numpy_helper.from_array(np.ascontiguousarray(values.reshape(-1)), name)
            graph.constants[name] = constant
            graph.graph.initializer.append(constant)
        gather.input[0] = name
        gather.output[0] = after[0].output[0]
        graph.graph.node.remove(after[0])


def _gather_in_place(graph: Graph) -> None:
    """Squeeze, Gather from a (V,) table, Unsqueeze of the same axis -> Gather."""
    for gather in [node for node in graph.graph.node if node.op_type == "Gather"]:
        squeeze, after = graph.producer(gather.input[1]), graph.consumers(gather.output[0])
        table = graph.constants.get(gather.input[0])
        if (
            squeeze is None
            or squeeze.op_type != "Squeeze"
            or [each.op_type for each in after] != ["Unsqueeze"]
        ):
            continue
        removed, added = graph.values(squeeze.input[1]), graph.values(after[0].input[1])
        if removed is None or added is None or table is None or len(table.dims) != 1:
            continue
        if removed.reshape(-1).tolist() == added.reshape(-1).tolist():
            gather.input[1] = squeeze.input[0]
            graph.absorb(gather, after[0])


def _bounded_above(graph: Graph) -> None:
    """Min with a number -> Clip, which needs no broadcasting."""
    for bound in [node for node in graph.graph.node if node.op_type == "Min" and len(node.input) == 2]:
        highest = graph.values(bound.input[1])
        if highest is not None and highest.size == 1:
            name = graph.constant(highest.reshape(()), f"{bound.output[0]}.highest")
            value = bound.input[0]
            bound.op_type = "Clip"
            del bound.input[:]
            bound.input.extend([value, "", name])


def _pad_in_pooling(graph: Graph) -> None:
    """Pad with zeros in front, then MaxPool -> MaxPool with padding.

    MaxPool pads with minus infinity. All values are at least 0 and each window contains one of them, so the
    maximum is the same.
    """
    for pool in [node for node in graph.graph.node if node.op_type == "MaxPool"]:
        pad = graph.producer(pool.input[0])
        if pad is None or pad.op_type != "Pad" or len(graph.consumers(pad.output[0])) != 1:
            continue
        amounts = numpy_helper.to_array(graph.constants[pad.input[1]]).tolist()
        half = len(amounts) // 2
        if any(amounts[:2]) or any(amounts[half : half + 2]):
            continue
        kept = [each for each in pool.attribute if each.name not in ("pads", "auto_pad")]
        del pool.attribute[:]
        pool.attribute.extend(kept)
        pool.attribute.append(helper.make_attribute("pads", amounts[2:half] + amounts[half + 2 :]))
        pool.input[0] = pad.input[0]


def _normalise(graph: Graph) -> None:
    """Division by max(|x|, tiny) over the last axis -> LpNormalization, which also keeps zero vectors."""
    for division in [node for node in graph.graph.node if node.op_type == "Div"]:
        bound = graph.producer(division.input[1])
        length = graph.producer(bound.input[2]) if bound is not None and bound.op_type == "Where" else None
        if length is None or length.op_type != "ReduceL2" or length.input[0] != division.input[0]:
            continue
        axes = numpy_helper.to_array(graph.constants[length.input[1]]).reshape(-1).tolist()
        if axes != [-1]:
            continue
        vector = division.input[0]
        division.op_type = "LpNormalization"
        del division.input[:]
        division.input.append(vector)
        division.attribute.extend([helper.make_attribute("axis", -1), helper.make_attribute("p", 2)])


def _copied_dimensions(graph: Graph) -> None:
    """Reshape to a shape made of another shape's dimensions -> Reshape with 0 for a copied dimension."""
    for reshape in [node for node in graph.graph.node if node.op_type == "Reshape"]:
        target = graph.producer(reshape.input[1])
        if target is None or target.op_type != "Concat":
            continue
        present = graph.dimensions(reshape.input[0])
        wanted = [_dimension(graph, part) for part in target.input]
        copied = [isinstance(each, str) for each in wanted]
        if "" in wanted or any(
            copies and wanted[at] != dict(enumerate(present)).get(at) for at, copies in enumerate(copied)
        ):
            continue
        sizes = np.array([0 if isinstance(each, str) else each for each in wanted], np.int64)
        reshape.input[1] = graph.constant(sizes, f"{reshape.output[0]}.shape")
        del reshape.attribute[:]  # allowzero, with which 0 would be a size


def _dimension(graph: Graph, part: str) -> str | int:
    """One dimension of a computed shape: its size or name, or empty if unknown."""
    values, source = graph.values(part), graph.producer(part)
    if values is not None:
        return int(values.item()) if values.size == 1 else ""
    if source is None or source.op_type != "Shape":
        return ""
    span = {each.name: each.i for each in source.attribute}
    known = graph.dimensions(source.input[0])[span.get("start", 0) : span.get("end")]
    return known[0] if len(known) == 1 else ""


def _scaled_layer(graph: Graph) -> None:
    """A linear layer, then Mul by a number -> a linear layer with scaled weights."""
    for scaling in [node for node in graph.graph.node if node.op_type == "Mul"]:
        scale, shift = graph.values(scaling.input[1]), graph.sole_producer(scaling, 0, "Add")
        product = graph.sole_producer(shift, 0, "MatMul") if shift is not None else None
        if scale is None or scale.size != 1 or shift is None or product is None:
            continue
        weights, bias = graph.values(product.input[1]), graph.values(shift.input[1])
        if weights is None or bias is None:
            continue
        product.input[1] = graph.constant(weights * scale, f"{product.output[0]}.scaled")
        shift.input[1] = graph.constant(bias * scale, f"{shift.output[0]}.scaled")
        graph.absorb(shift, scaling)


def _shifted_norm(graph: Graph) -> None:
    """LayerNormalization, then Add a vector -> LayerNormalization with another bias."""
    for shift in [node for node in graph.graph.node if node.op_type == "Add"]:
        norm, vector = graph.sole_producer(shift, 0, "LayerNormalization"), graph.values(shift.input[1])
        bias = graph.values(norm.input[2]) if norm is not None and len(norm.input) == 3 else None
        if norm is None or vector is None or bias is None or vector.shape != bias.shape:
            continue
        norm.input[2] = graph.constant(bias + vector, f"{norm.output[0]}.shifted")
        graph.absorb(norm, shift)
