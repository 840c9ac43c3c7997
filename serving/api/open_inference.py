"""The service `inference.GRPCInferenceService`: KServe V2, the Open Inference Protocol, for the towers.

A tower is a model with the name of its file in the bundle, `query_tower` or `item_tower`; its version is the
first 12 digits of the bundle's. It takes one tensor for each feature, two for a history with times, and
returns `vector`, FP32 (B, D).

    text               BYTES  (B, 1)  UTF-8
    category, id       BYTES  (B, 1)  an empty string stands for an absent value
    several, history   BYTES  (B, L)  rows padded with empty strings; a history is oldest first
    number             FP32   (B, 1)  or FP64; NaN stands for an absent value
    time               FP64   (B, 1)  seconds since 1970; NaN stands for now
    history__times     FP64   (B, L)  seconds of the events of `history`; NaN where not known, and as padding

A shape of (B,) is read as (B, 1). Every tensor is required, because the protocol knows no optional ones.

    client = tritonclient.grpc.InferenceServerClient("127.0.0.1:50051")
    text = tritonclient.grpc.InferInput("text", [1], "BYTES")
    text.set_data_from_numpy(np.array(["parse a date"], object))
    client.infer("query_tower", [text]).as_numpy("vector")
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt

from protos import open_inference_pb2 as wire
from protos.bundle import Manifest
from protos.errors import InvalidInput, UnknownModel
from protos.features import (
    CategoryFeature,
    FeatureSpec,
    HistoryFeature,
    NumberFeature,
    Side,
    TextFeature,
    TimeFeature,
)
from protos.inputs.events import TIMES
from serving.api.tensors import STRING, Tensor, received, refuse_parameters
from serving.engine.batching import Job
from serving.engine.call import Call
from serving.retrieval.query import Query, Value
from serving.wire.converters import RequestLimits

SERVICE = wire.DESCRIPTOR.services_by_name["GRPCInferenceService"]
PLATFORM = "onnxruntime_onnx"
OUTPUT, OUTPUT_DATATYPE = "vector", "FP32"
# Class of a feature -> datatype in the metadata, BYTES for others. FP32 is too coarse for seconds since 1970.
DATATYPES: dict[type[FeatureSpec], str] = {NumberFeature: "FP32", TimeFeature: "FP64"}

Vectors = npt.NDArray[np.float32]  # (B, D)
MakeResponse = Callable[[Vectors], wire.ModelInferResponse]
# Queries with features only, the request's call, and what makes the response -> the response, or a job.
Encode = Callable[[Sequence[Query], Call, MakeResponse], wire.ModelInferResponse | Job]


class InferenceServicer:
    """Answers the service's calls.

    Args:
        manifest: returns the manifest of the champion bundle.
        towers: side -> function that encodes now or in a job; its errors call the n-th query `queries[n]`.
    """

    def __init__(
        self, manifest: Callable[[], Manifest], towers: Mapping[Side, Encode], limits: RequestLimits
    ) -> None:
        self._manifest = manifest
        self._sides: dict[str, Side] = {f"{side}_tower": side for side in towers}
        self._towers = towers
        self._limits = limits

    def ServerLive(self, request: wire.ServerLiveRequest, call: Call) -> wire.ServerLiveResponse:
        """Whether the server is up."""
        return wire.ServerLiveResponse(live=True)

    def ServerReady(self, request: wire.ServerReadyRequest, call: Call) -> wire.ServerReadyResponse:
        """Whether the server is ready; it accepts no call before it is."""
        return wire.ServerReadyResponse(ready=True)

    def ModelReady(self, request: wire.ModelReadyRequest, call: Call) -> wire.ModelReadyResponse:
        """Whether a tower is served, in this version if the request names one."""
        served = request.version in ("", version(self._manifest()))
        return wire.ModelReadyResponse(ready=served and request.name in self._sides)

    def ServerMetadata(self, request: wire.ServerMetadataRequest, call: Call) -> wire.ServerMetadataResponse:
        """Name and version of the bundle that is served."""
        manifest = self._manifest()
        return wire.ServerMetadataResponse(name=manifest.name, version=version(manifest))

    def ModelMetadata(self, request: wire.ModelMetadataRequest, call: Call) -> wire.ModelMetadataResponse:
        """The input and output tensors of a tower."""
        manifest = self._manifest()
        side = self._side(request.name, request.version, manifest, "")
        output = wire.ModelMetadataResponse.TensorMetadata(
            name=OUTPUT, datatype=OUTPUT_DATATYPE, shape=[-1, manifest.width(side)]
        )
        return wire.ModelMetadataResponse(
            name=request.name,
            versions=[version(manifest)],
            platform=PLATFORM,
            inputs=[
                each
                for feature in getattr(manifest.schema, side).items()
                for each in inputs_metadata(*feature)
            ],
            outputs=[output],
        )

    def ModelInfer(self, request: wire.ModelInferRequest, call: Call) -> wire.ModelInferResponse | Job:
        """The vectors of a batch of queries or items."""
        manifest = self._manifest()
        side = self._side(request.model_name, request.model_version, manifest, "model_")
        refuse_parameters(request.parameters, "parameters")
        check_outputs(request.outputs)
        features = getattr(manifest.schema, side)
        queries = queries_from_wire(request, features, self._limits)

        def respond(vectors: Vectors) -> wire.ModelInferResponse:
            response = wire.ModelInferResponse(
                model_name=request.model_name, model_version=version(manifest), id=request.id
            )
            add_vectors(response, vectors, raw=len(request.raw_input_contents) > 0)
            return response

        renaming = partial(named_by_tensor, features)
        with renaming():
            outcome = self._towers[side](queries, call, respond)
        if isinstance(outcome, Job):
            outcome.renaming = renaming
        return outcome

    def _side(self, name: str, asked_version: str, manifest: Manifest, prefix: str) -> Side:
        if name not in self._sides:
            raise UnknownModel(f"{prefix}name", f"no model {name!r} is served, but {', '.join(self._sides)}")
        if asked_version not in ("", version(manifest)):
            found = f"{asked_version!r} is not served, but {version(manifest)}"
            raise UnknownModel(f"{prefix}version", found)
        return self._sides[name]


def version(manifest: Manifest) -> str:
    """The version of a bundle's towers."""
    return manifest.bundle_version[:12]


def check_outputs(outputs: Sequence[wire.ModelInferRequest.InferRequestedOutputTensor]) -> None:
    """Refuse a request for outputs that a tower does not have.

    Raises:
        InvalidInput: an output is unknown, requested twice, or has parameters.
    """
    for output in outputs:
        if output.name != OUTPUT:
            raise InvalidInput(f"outputs.{output.name}", f"unknown; the tower gives {OUTPUT}")
        refuse_parameters(output.parameters, f"outputs.{output.name}.parameters")
    if len(outputs) > 1:
        raise InvalidInput(f"outputs.{OUTPUT}", f"asked for {len(outputs)} times")


def add_vectors(response: wire.ModelInferResponse, vectors: Vectors, raw: bool) -> None:
    """Add vectors (B, D) to a response."""
    output = response.outputs.add(name=OUTPUT, datatype=OUTPUT_DATATYPE, shape=vectors.shape)
    if raw:
        response.raw_output_contents.append(vectors.astype("<f4", copy=False).tobytes())
    else:
        output.contents.fp32_contents.extend(vectors.ravel().tolist())


def inputs_metadata(name: str, spec: FeatureSpec) -> list[wire.ModelMetadataResponse.TensorMetadata]:
    """The metadata of a feature's tensors: one, or two for a history with times."""
    shape = [-1, -1 if _takes_several(spec) else 1]
    datatypes = {name: DATATYPES.get(type(spec), STRING)}
    if has_times(spec):
        datatypes[f"{name}{TIMES}"] = "FP64"
    return [
        wire.ModelMetadataResponse.TensorMetadata(name=each, datatype=datatype, shape=shape)
        for each, datatype in datatypes.items()
    ]


def has_times(spec: FeatureSpec) -> bool:
    """Whether a second tensor holds the times of the feature's events."""
    return isinstance(spec, HistoryFeature) and spec.times


def queries_from_wire(
    request: wire.ModelInferRequest, features: Mapping[str, FeatureSpec], limits: RequestLimits
) -> list[Query]:
    """A request's rows as queries, each with the features that are present.

    Args:
        request: as received.

    Raises:
        InvalidInput: the tensors do not match the tower; the field is `inputs.<feature>`, or
            `inputs.<feature>[<n>]` for one row or element.
    """
    tensors = received(request)
    expected = [each.name for feature in features.items() for each in inputs_metadata(*feature)]
    for name, tensor in tensors.items():
        if name not in expected:
            raise InvalidInput(tensor.field, f"unknown; the tower takes {', '.join(expected)}")
    for name in expected:
        if name not in tensors:
            raise InvalidInput(f"inputs.{name}", "required, but missing")
    dated = next((name for name, spec in features.items() if has_times(spec)), None)
    rows = {name: _values(tensors[name], spec, limits) for name, spec in features.items() if name != dated}
    histories = _histories_with_times(dated, tensors, limits) if dated else None
    counts = {dated: len(histories)} if dated and histories else {}
    _check_rows({**{name: len(each) for name, each in rows.items()}, **counts})
    queries = [
        Query(features={name: value for name, value in zip(rows, row, strict=True) if value is not None})
        for row in zip(*rows.values(), strict=True)
    ]
    if histories is not None:
        queries = [
            replace(query, history=history, history_times=times)
            for query, (history, times) in zip(queries, histories, strict=True)
        ]
    with named_by_tensor(features):
        for n, query in enumerate(queries):
            limits.check_query(query, f"queries[{n}]")
    return queries


@contextmanager
def named_by_tensor(features: Mapping[str, FeatureSpec]) -> Iterator[None]:
    """Rename the field of errors: `queries[3].features.age` becomes `inputs.age[3]`.

    Of a history with times, `queries[3].history` becomes `inputs.<history>[3]`, and
    `queries[3].history_times[7]` becomes `inputs.<history>__times[3]`.
    """
    dated = next((name for name, spec in features.items() if has_times(spec)), "")
    try:
        yield
    except InvalidInput as error:
        row, _, feature = error.field.partition(".features.")
        if not feature and dated:
            row, found, part = error.field.partition(".history")
            feature = found and f"{dated}{TIMES if part.startswith('_times') else ''}"
        if not feature:
            raise
        raise InvalidInput(f"inputs.{feature}{row.removeprefix('queries')}", error.reason) from None


def _check_rows(counts: Mapping[str, int]) -> None:
    (first, count), *others = counts.items()
    for name, rows in others:
        if rows != count:
            raise InvalidInput(f"inputs.{name}", f"expected as many rows as {first} has, {count}, got {rows}")


def _histories_with_times(
    name: str, tensors: Mapping[str, Tensor], limits: RequestLimits
) -> list[tuple[tuple[str, ...], tuple[float, ...]]]:
    """The item ids and event times of each row; times are NaN where not known, and () if none is known."""
    tensor, times_tensor = tensors[name], tensors[f"{name}{TIMES}"]
    rows, columns = shape = tensor.extent(limits.max_batch, 0, limits.max_values)
    found = times_tensor.extent(limits.max_batch, 0, limits.max_values)
    if found != shape:
        raise InvalidInput(times_tensor.field, f"expected the shape of {name}, {[*shape]}, got {[*found]}")
    items, times = tensor.strings(rows * columns), times_tensor.numbers(rows * columns)
    histories = []
    for n in range(rows):
        span = slice(n * columns, (n + 1) * columns)
        events = zip(items[span], times[span], strict=True)
        present = [(item, seconds) for item, seconds in events if item]
        is_known = not all(math.isnan(seconds) for _, seconds in present)
        histories.append(
            (
                tuple(item for item, _ in present),
                tuple(seconds for _, seconds in present) if is_known else (),
            )
        )
    return histories


def _takes_several(spec: FeatureSpec) -> bool:
    return isinstance(spec, HistoryFeature) or (isinstance(spec, CategoryFeature) and spec.multi)


def _values(tensor: Tensor, spec: FeatureSpec, limits: RequestLimits) -> list[Value | None]:
    """A feature's value in each row, None where it is absent."""
    several = _takes_several(spec)
    rows, columns = tensor.extent(limits.max_batch, *((0, limits.max_values) if several else (1, 1)))
    if type(spec) in DATATYPES:
        return [None if math.isnan(number) else number for number in tensor.numbers(rows)]
    strings = tensor.strings(rows * columns)
    if isinstance(spec, TextFeature):
        return [*strings]
    if not several:
        return [string or None for string in strings]
    return [tuple(filter(None, strings[n * columns : (n + 1) * columns])) for n in range(rows)]
