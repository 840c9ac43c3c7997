"""A tower's features as tensors of the Open Inference Protocol, one tensor for each.

    text               BYTES  (B, 1)  UTF-8
    category, id       BYTES  (B, 1)  an empty string stands for an absent one
    several, history   BYTES  (B, L)  rows filled up with empty strings; a history is oldest first
    number             FP32   (B, 1)  or FP64; NaN stands for an absent one

(B,) does for (B, 1), and every tensor must be given, since the protocol has no word for one that need not.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from protos import open_inference_pb2 as wire
from protos.errors import InvalidInput
from protos.features import CategoryFeature, FeatureSpec, HistoryFeature, NumberFeature, TextFeature
from serving.limits import Limits
from serving.query import Query, Value
from serving.tensors import STRING, Tensor, received


def input_metadata(name: str, spec: FeatureSpec) -> wire.ModelMetadataResponse.TensorMetadata:
    """The tensor of a feature."""
    datatype = "FP32" if isinstance(spec, NumberFeature) else STRING
    shape = [-1, -1 if _takes_several(spec) else 1]
    return wire.ModelMetadataResponse.TensorMetadata(name=name, datatype=datatype, shape=shape)


def queries_from_wire(
    request: wire.ModelInferRequest, features: Mapping[str, FeatureSpec], limits: Limits
) -> list[Query]:
    """A request's rows as queries; nothing in one but features that are present.

    Args:
        request: as it was received.
        features: that the tower takes.
        limits: that the request must keep to.

    Raises:
        InvalidInput: its tensors are not those that the tower takes; the field is `inputs.<feature>`, or
            `inputs.<feature>[<n>]` where one row or element of it is at fault.
    """
    tensors = received(request)
    for name, tensor in tensors.items():
        if name not in features:
            raise InvalidInput(tensor.field, f"unknown; the tower takes {', '.join(features)}")
    rows: dict[str, list[Value | None]] = {}
    for name, spec in features.items():
        if name not in tensors:
            raise InvalidInput(f"inputs.{name}", "required, but missing")
        rows[name] = _values(tensors[name], spec, limits)
    _check_rows(rows)
    queries = [
        Query(features={name: value for name, value in zip(rows, row, strict=True) if value is not None})
        for row in zip(*rows.values(), strict=True)
    ]
    with named_by_tensor():
        for n, query in enumerate(queries):
            limits.check_query(query, f"queries[{n}]")
    return queries


@contextmanager
def named_by_tensor() -> Iterator[None]:
    """Errors about `queries[3].features.age` are about `inputs.age[3]`."""
    try:
        yield
    except InvalidInput as error:
        row, _, feature = error.field.partition(".features.")
        if not feature:
            raise
        raise InvalidInput(f"inputs.{feature}{row.removeprefix('queries')}", error.reason) from None


def _check_rows(values: Mapping[str, Sequence[Value | None]]) -> None:
    (first, count), *others = ((name, len(rows)) for name, rows in values.items())
    for name, rows in others:
        if rows != count:
            raise InvalidInput(f"inputs.{name}", f"expected as many rows as {first} has, {count}, got {rows}")


def _takes_several(spec: FeatureSpec) -> bool:
    return isinstance(spec, HistoryFeature) or (isinstance(spec, CategoryFeature) and spec.multi)


def _values(tensor: Tensor, spec: FeatureSpec, limits: Limits) -> list[Value | None]:
    """A feature's value in each row, None where it is absent."""
    several = _takes_several(spec)
    rows, columns = tensor.extent(limits.max_batch, *((0, limits.max_values) if several else (1, 1)))
    if isinstance(spec, NumberFeature):
        return [None if math.isnan(number) else number for number in tensor.numbers(rows)]
    strings = tensor.strings(rows * columns)
    if isinstance(spec, TextFeature):
        return [*strings]
    if not several:
        return [string or None for string in strings]
    return [tuple(filter(None, strings[n * columns : (n + 1) * columns])) for n in range(rows)]
