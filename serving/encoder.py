"""Query or item to vector: an ONNX tower on ONNX Runtime, preprocessing inside the graph."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from protos.bundle import ITEM_TOWER, QUERY_TOWER, Manifest
from protos.errors import BundleDamaged, InvalidInput
from protos.features import Arrays, FeatureSpec, Side, TextFeature, TowerInputs, text_rows
from protos.huge_pages import on_huge_pages
from protos.onnx_file import check_self_contained
from serving.together import together

OUTPUT = "vector"
OUTPUTS = [OUTPUT]
NOT_FINITE = "a tower gave a vector that is not finite"
TOWERS: dict[Side, str] = {"query": QUERY_TOWER, "item": ITEM_TOWER}
ELEMENT_TYPES = {
    "text": "tensor(int32)",
    "category": "tensor(int64)",
    "number": "tensor(float)",
    "id": "tensor(int64)",
    "history": "tensor(int64)",
}


class Encoder:
    """A tower of a bundle; safe to call from several threads.

    Args:
        folder: of a bundle whose files have been verified.
        manifest: of that bundle.
        threads: that ONNX Runtime may use inside one call.
        side: which of the two towers.

    Raises:
        BundleDamaged: the tower is not an ONNX model, has weights outside its file, or is not the one that
            the manifest describes.
    """

    def __init__(self, folder: Path, manifest: Manifest, threads: int = 1, side: Side = "query") -> None:
        path = folder / TOWERS[side]
        self.inputs = manifest.schema.side(side)
        features = [*self.inputs.features.items()]
        name, spec = features[0]
        self._text = (name, spec) if len(features) == 1 and isinstance(spec, TextFeature) else None
        self._session = _open(path, threads)
        # The session's own `run` asks again, of every call, what `_check` has seen to.
        self._run = getattr(self._session, "_sess", self._session).run
        _check(self._session, path, self.inputs.features, manifest.dimension)

    def arrays(self, rows: Sequence[Mapping[str, Any]]) -> Arrays:
        """Queries as the tower's inputs, (B, ...) each.

        Args:
            rows: for each query, feature name -> raw value, None where absent.

        Raises:
            InvalidInput: a value does not fit its feature; `blame` tells whose.
        """
        if self._text is not None and len(rows) == 1:  # as most are: one text and nothing else
            name, spec = self._text
            return {name: text_rows([rows[0][name]], spec)}
        return self.inputs.to_arrays(_columns(self.inputs, rows))

    def blame(self, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
        """Where `arrays` does not take them all: name the first that it does not take.

        Args:
            rows: as `arrays` takes them.
            names: what an error calls each, such as `queries[3]`.

        Raises:
            InvalidInput: the field is `<name>.features.<feature>`.
        """
        for row, name in zip(rows, names, strict=True):
            try:
                self.inputs.to_arrays(_columns(self.inputs, [row]))
            except InvalidInput as error:
                feature = error.field.removeprefix(f"{self.inputs.side}.")
                raise InvalidInput(f"{name}.features.{feature}", error.reason) from None

    def together(self, rows: Sequence[Mapping[str, Any]]) -> list[list[int]]:
        """Places of the queries, as `arrays` takes them, that one call had better encode together."""
        return together(self.inputs.lengths(_columns(self.inputs, rows), len(rows)))

    def vectors(self, arrays: Arrays) -> npt.NDArray[np.float32]:
        """The tower's vectors of its inputs, float32 (B, D).

        Raises:
            ArithmeticError: one is not finite.
        """
        return checked(self.unchecked(arrays))

    def unchecked(self, arrays: Arrays) -> npt.NDArray[np.float32]:
        """As `vectors`, for who will see by the products whether they are finite."""
        vectors: npt.NDArray[np.float32] = self._run(OUTPUTS, arrays, None)[0]
        return vectors


def checked(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The vectors that a tower gave, (B, D).

    Raises:
        ArithmeticError: one is not finite. Nothing that a query may hold should do this to a tower.
    """
    # One sum tells in half the time.
    if not math.isfinite(np.vdot(vectors, vectors)) and not np.isfinite(vectors).all():
        raise ArithmeticError(NOT_FINITE)
    return vectors


def _columns(inputs: TowerInputs, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {feature: [row[feature] for row in rows] for feature in inputs.features}


def _open(path: Path, threads: int) -> onnxruntime.InferenceSession:
    check_self_contained(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    try:
        with on_huge_pages():
            return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no other base
        raise BundleDamaged(f"{path}: ONNX Runtime cannot load it: {error}") from None


def _check(
    session: onnxruntime.InferenceSession,
    path: Path,
    features: Mapping[str, FeatureSpec],
    dimension: int,
) -> None:
    expected = {name: ELEMENT_TYPES[spec.kind] for name, spec in features.items()}
    found = {node.name: node.type for node in session.get_inputs()}
    if found != expected:
        raise BundleDamaged(f"{path}: takes {found}, but the manifest's features are {expected}")
    outputs = {node.name: node.shape for node in session.get_outputs()}
    if OUTPUT not in outputs:
        raise BundleDamaged(f"{path}: gives {sorted(outputs)}, expected an output named {OUTPUT}")
    shape = outputs[OUTPUT]
    if len(shape) != 2 or shape[1] != dimension:
        raise BundleDamaged(f"{path}: gives {shape}, but the manifest's dimension is {dimension}")
