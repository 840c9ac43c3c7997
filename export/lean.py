"""Rewrites that leave an exported graph smaller and its results the same.

A tower takes a few microseconds, and each node costs about half of one whatever it does, so nodes are
what there is to save. Each rewrite is exact but for the rounding of a division.
"""

import numpy as np
import onnx
from onnx import helper, numpy_helper


def lean(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with all rewrites applied, in place."""
    graph = _Graph(model.graph)
    _gather_scalars(graph)
    _pad_in_pooling(graph)
    _normalise(graph)
    graph.drop_unused()
    return model


class _Graph:
    """A graph with the look-ups that rewrites need."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.constants = {each.name: each for each in graph.initializer}

    def consumers(self, name: str) -> list[onnx.NodeProto]:
        return [node for node in self.graph.node if name in node.input]

    def producer(self, name: str) -> onnx.NodeProto | None:
        return next((node for node in self.graph.node if name in node.output), None)

    def drop_unused(self) -> None:
        """Take out nodes and constants that nothing reads any more."""
        outputs = {output.name for output in self.graph.output}
        while True:
            read = outputs | {name for node in self.graph.node for name in node.input}
            idle = [node for node in self.graph.node if not read.intersection(node.output)]
            if not idle:
                break
            for node in idle:
                self.graph.node.remove(node)
        for constant in [each for each in self.graph.initializer if each.name not in read]:
            self.graph.initializer.remove(constant)


def _gather_scalars(graph: _Graph) -> None:
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


def _pad_in_pooling(graph: _Graph) -> None:
    """Pad with zeros in front, then MaxPool -> MaxPool that pads itself.

    MaxPool pads with minus infinity; over values of at least 0, with at least one of them in each
    window, the maximum is the same.
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


def _normalise(graph: _Graph) -> None:
    """Division by max(|x|, tiny) over the last axis -> LpNormalization, which leaves zero as it is, too."""
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
