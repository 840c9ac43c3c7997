"""The service `inference.GRPCInferenceService`: KServe V2, the Open Inference Protocol, for the towers.

A tower is a model named as its file in the bundle is, `query_tower` or `item_tower`; its version is the
first 12 digits of the bundle's. It takes a tensor for each feature, as `feature_tensors.py` and
`ModelMetadata` say, and gives `vector`, FP32 (B, D).

    client = tritonclient.grpc.InferenceServerClient("127.0.0.1:50051")
    text = tritonclient.grpc.InferInput("text", [1], "BYTES")
    text.set_data_from_numpy(np.array(["parse a date"], object))
    client.infer("query_tower", [text]).as_numpy("vector")
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from protos import open_inference_pb2 as wire
from protos.bundle import Manifest
from protos.errors import InvalidInput, UnknownModel
from protos.features import Side
from serving.feature_tensors import input_metadata, named_by_tensor, queries_from_wire
from serving.limits import Limits
from serving.query import Query
from serving.rpc import Rpc
from serving.tensors import refuse_parameters

SERVICE = wire.DESCRIPTOR.services_by_name["GRPCInferenceService"]
PLATFORM = "onnxruntime_onnx"
OUTPUT, OUTPUT_DATATYPE = "vector", "FP32"

# Queries of nothing but features, and the request's call -> vectors, float32 (B, D).
Encode = Callable[[Sequence[Query], Rpc], npt.NDArray[np.float32]]


class InferenceServicer:
    """Answers the service's calls.

    Args:
        manifest: gives that of the bundle that is being served.
        towers: those on offer, and what encodes for each; its errors call the n-th query `queries[n]`.
        limits: that requests must keep to.
    """

    def __init__(
        self, manifest: Callable[[], Manifest], towers: Mapping[Side, Encode], limits: Limits
    ) -> None:
        self._manifest = manifest
        self._sides: dict[str, Side] = {f"{side}_tower": side for side in towers}
        self._towers = towers
        self._limits = limits

    def ServerLive(self, request: wire.ServerLiveRequest, rpc: Rpc) -> wire.ServerLiveResponse:
        """Whether the server is up."""
        return wire.ServerLiveResponse(live=True)

    def ServerReady(self, request: wire.ServerReadyRequest, rpc: Rpc) -> wire.ServerReadyResponse:
        """Whether the server can answer: it does not answer before it can."""
        return wire.ServerReadyResponse(ready=True)

    def ModelReady(self, request: wire.ModelReadyRequest, rpc: Rpc) -> wire.ModelReadyResponse:
        """Whether a tower can answer, so that a client may wait for a version that is to come."""
        served = request.version in ("", version(self._manifest()))
        return wire.ModelReadyResponse(ready=served and request.name in self._sides)

    def ServerMetadata(self, request: wire.ServerMetadataRequest, rpc: Rpc) -> wire.ServerMetadataResponse:
        """The name and the version of what is being served."""
        manifest = self._manifest()
        return wire.ServerMetadataResponse(name=manifest.name, version=version(manifest))

    def ModelMetadata(self, request: wire.ModelMetadataRequest, rpc: Rpc) -> wire.ModelMetadataResponse:
        """The tensors that a tower takes and gives."""
        manifest = self._manifest()
        side = self._side(request.name, request.version, manifest, "")
        output = wire.ModelMetadataResponse.TensorMetadata(
            name=OUTPUT, datatype=OUTPUT_DATATYPE, shape=[-1, manifest.dimension]
        )
        return wire.ModelMetadataResponse(
            name=request.name,
            versions=[version(manifest)],
            platform=PLATFORM,
            inputs=[input_metadata(*each) for each in getattr(manifest.schema, side).items()],
            outputs=[output],
        )

    def ModelInfer(self, request: wire.ModelInferRequest, rpc: Rpc) -> wire.ModelInferResponse:
        """The vectors of a batch."""
        manifest = self._manifest()
        side = self._side(request.model_name, request.model_version, manifest, "model_")
        refuse_parameters(request.parameters, "parameters")
        check_outputs(request.outputs)
        queries = queries_from_wire(request, getattr(manifest.schema, side), self._limits)
        with named_by_tensor():
            vectors = self._towers[side](queries, rpc)
        response = wire.ModelInferResponse(
            model_name=request.model_name, model_version=version(manifest), id=request.id
        )
        add_vectors(response, vectors, raw=len(request.raw_input_contents) > 0)
        return response

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
    """Refuse to be asked for what there is not.

    Raises:
        InvalidInput: an output is unknown, asked for twice, or has parameters.
    """
    for output in outputs:
        if output.name != OUTPUT:
            raise InvalidInput(f"outputs.{output.name}", f"unknown; the tower gives {OUTPUT}")
        refuse_parameters(output.parameters, f"outputs.{output.name}.parameters")
    if len(outputs) > 1:
        raise InvalidInput(f"outputs.{OUTPUT}", f"asked for {len(outputs)} times")


def add_vectors(response: wire.ModelInferResponse, vectors: npt.NDArray[np.float32], raw: bool) -> None:
    """Put vectors (B, D) into a response."""
    output = response.outputs.add(name=OUTPUT, datatype=OUTPUT_DATATYPE, shape=vectors.shape)
    if raw:
        response.raw_output_contents.append(vectors.astype("<f4", copy=False).tobytes())
    else:
        output.contents.fp32_contents.extend(vectors.ravel().tolist())
