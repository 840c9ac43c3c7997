"""The Open Inference Protocol over a real socket: to Triton's own client, and to what it would never send."""

import json
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from google.protobuf.descriptor import Descriptor

from protos import open_inference_pb2 as wire
from protos import open_inference_pb2_grpc
from protos.bundle import ITEM_TOWER
from serving.retrieval.encoder import ItemEncoder
from serving.retrieval.query import Query
from serving.retrieval.retriever import Retriever
from serving.rollout.loaded_bundle import LoadedBundle
from serving.server import RetrievalServer
from serving.wire.converters import RequestLimits
from tests.helpers import tiny
from tests.helpers.tiny_towers import DIMENSION
from tests.serving.conftest import ROOT

TEXTS = ["bake limo nupy", "", "日本 ß", "a" * 100]
LIMITS = RequestLimits(max_batch=8, max_values=5, max_text_length=100)


@contextmanager
def serving(
    retriever: Retriever, item_tower: ItemEncoder | None = None, limits: RequestLimits = LIMITS
) -> Iterator[str]:
    """A server of the retriever; gives its address."""
    with RetrievalServer(LoadedBundle.of(retriever, item_tower), limits) as server:
        yield server.address


def triton(
    address: str, calls: Sequence[Mapping[str, Any]] = (), model: str = "query_tower"
) -> dict[str, Any]:
    """What Triton's client makes of the server there."""
    done = subprocess.run(
        [sys.executable, Path(__file__).parents[2] / "helpers" / "serving" / "triton_calls.py", address],
        input=json.dumps({"model": model, "calls": [{"model": model, **call} for call in calls]}),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def text(*values: Any) -> tuple[str, str, list[Any]]:
    return "text", "BYTES", [*values]


CALLS: dict[str, dict[str, Any]] = {
    "flat": {"inputs": [text(*TEXTS)], "outputs": ["vector"]},
    "column": {"inputs": [text(*([each] for each in TEXTS))], "id": "17"},
    "no such model": {"inputs": [text("a")], "model": "nothing"},
    "no such version": {"inputs": [text("a")], "version": "1"},
    "no such output": {"inputs": [text("a")], "outputs": ["vector", "logits"]},
    "no such input": {"inputs": [text("a"), ("age", "FP32", [1])]},
    "missing": {"inputs": []},
    "datatype": {"inputs": [("text", "FP32", [1])]},
    "columns": {"inputs": [text(["a", "b"])]},
    "batch": {"inputs": [text(*"abcdefghi")]},
    "length": {"inputs": [text("a", "b" * 101)]},
    "option": {"inputs": [text("a")], "options": {"priority": 1}},
}
REFUSALS = {
    "no such model": ("NOT_FOUND", "model_name: no model 'nothing' is served, but query_tower"),
    "no such version": ("NOT_FOUND", "model_version: '1' is not served, but "),
    "no such output": ("INVALID_ARGUMENT", "outputs.logits: unknown; the tower gives vector"),
    "no such input": ("INVALID_ARGUMENT", "inputs.age: unknown; the tower takes text"),
    "missing": ("INVALID_ARGUMENT", "inputs.text: required, but missing"),
    "datatype": ("INVALID_ARGUMENT", "inputs.text: expected datatype BYTES, got 'FP32'"),
    "columns": ("INVALID_ARGUMENT", "inputs.text: expected 1 column, got 2"),
    "batch": ("INVALID_ARGUMENT", "inputs.text: expected 1 to 8 rows, got 9"),
    "length": ("INVALID_ARGUMENT", "inputs.text[1]: expected at most 100 code points, got 101"),
    "option": ("INVALID_ARGUMENT", "parameters: none are known here, got 'priority'"),
}


@pytest.fixture(scope="module")
def address(retriever: Retriever) -> Iterator[str]:
    with serving(retriever) as address:
        yield address


@pytest.fixture(scope="module")
def seen(address: str) -> dict[str, Any]:
    """What Triton's client makes of all of `CALLS`."""
    found = triton(address, [*CALLS.values()])
    return {**found, "results": dict(zip(CALLS, found["results"], strict=True))}


@pytest.fixture
def stub(address: str) -> Iterator[Any]:
    with grpc.insecure_channel(address) as channel:
        yield open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)


def test_triton_encodes_as_the_retriever_does(seen: dict[str, Any], retriever: Retriever) -> None:
    expected = retriever.encode([Query(each) for each in TEXTS]).vectors
    for call in ("flat", "column"):
        result = seen["results"][call]
        np.testing.assert_array_equal(np.array(result["vectors"], np.float32), expected)
        assert result["model"] == "query_tower"
        assert result["version"] == retriever.manifest.bundle_version[:12]
        assert result["id"] == CALLS[call].get("id", "")


@pytest.mark.parametrize("call", REFUSALS)
def test_triton_is_told_what_is_wrong(seen: dict[str, Any], call: str) -> None:
    code, start = REFUSALS[call]
    assert seen["results"][call]["status"] == f"StatusCode.{code}"
    assert seen["results"][call]["text"].startswith(start)


def test_triton_finds_out_what_is_served(seen: dict[str, Any], retriever: Retriever) -> None:
    version = retriever.manifest.bundle_version[:12]
    assert seen["described"] == {
        "live": True,
        "ready": True,
        "server": {"name": "tiny", "version": version},
        "model_ready": True,
        "other_ready": False,
        "other_version_ready": False,
        "model": {
            "name": "query_tower",
            "versions": [version],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": "text", "datatype": "BYTES", "shape": ["-1", "1"]}],
            "outputs": [{"name": "vector", "datatype": "FP32", "shape": ["-1", str(DIMENSION)]}],
        },
    }


def test_the_messages_are_those_of_the_standard(seen: dict[str, Any]) -> None:
    def fields(message: Descriptor) -> dict[str, dict[str, list[Any]]]:
        found = {
            message.full_name: {
                each.name: [each.number, each.type, each.is_repeated] for each in message.fields
            }
        }
        for each in message.nested_types:
            found |= fields(each)
        return found

    for message in wire.DESCRIPTOR.message_types_by_name.values():
        for name, ours in fields(message).items():
            assert ours == seen["fields"][name], name


def test_every_kind_of_feature_is_a_tensor(full_retriever: Retriever) -> None:
    inputs = [
        text("bake", "limo", "nupy"),
        ("country", "BYTES", ["fr", "", "nowhere"]),
        ("tags", "BYTES", [["new", "old"], ["", "old"], ["", ""]]),
        ("age", "FP64", [41.5, float("nan"), -1e30]),
    ]
    expected = [
        Query("bake", features={"country": "fr", "tags": ["new", "old"], "age": 41.5}),
        Query("limo", features={"tags": ["old"]}),
        Query("nupy", features={"country": "nowhere", "age": -1e30}),
    ]
    nothing = [text("bake"), ("country", "BYTES", [""]), ("tags", "BYTES", [[]]), ("age", "FP32", [[2]])]
    wrong = [*inputs[:3], ("age", "FP64", [1.0, 1e300, 2.0])]
    short = [*inputs[:3], ("age", "FP64", [1.0])]
    with serving(full_retriever) as address:
        found = triton(address, [{"inputs": each} for each in (inputs, nothing, wrong, short)])
    first, second, third, fourth = found["results"]
    np.testing.assert_array_equal(np.float32(first["vectors"]), full_retriever.encode(expected).vectors)
    alone = full_retriever.encode([Query("bake", features={"age": 2.0})]).vectors
    np.testing.assert_array_equal(np.float32(second["vectors"]), alone)
    assert third["text"] == "inputs.age[1]: expected a number that fits float32, got 1e+300"
    assert fourth["text"] == "inputs.country: expected as many rows as age has, 1, got 3"
    shapes = {
        each["name"]: (each["datatype"], each["shape"]) for each in found["described"]["model"]["inputs"]
    }
    assert shapes == {
        "text": ("BYTES", ["-1", "1"]),
        "country": ("BYTES", ["-1", "1"]),
        "tags": ("BYTES", ["-1", "-1"]),
        "age": ("FP32", ["-1", "1"]),
    }


def test_histories_are_filled_up_with_empty_strings(watched: Path) -> None:
    retriever = Retriever.load(watched)
    ids = [["item-001", "item-002", "item-003"], ["", "item-005", ""], ["", "", ""]]
    country = ("country", "BYTES", ["de", "", "jp"])
    too_many = [["item-001"] * 6] * 3
    too_long = [["item-001"], ["i" * 101], [""]]
    calls = [{"inputs": [("history", "BYTES", each), country]} for each in (ids, too_many, too_long)]
    with serving(retriever) as address:
        found, refused, long = triton(address, calls)["results"]
    expected = [
        Query(history=tuple(ids[0]), features={"country": "de"}),
        Query(history=("item-005",)),
        Query(features={"country": "jp"}),
    ]
    np.testing.assert_array_equal(np.float32(found["vectors"]), retriever.encode(expected).vectors)
    assert refused["text"] == "inputs.history: expected 0 to 5 columns, got 6"
    expected_error = "inputs.history[1]: expected at most 100 code points in each of the strings, got 101"
    assert long["text"] == expected_error


def test_the_item_tower_is_a_model_too(plain: Path, retriever: Retriever) -> None:
    names = tiny.item_names(8)

    def encode(items: Sequence[Query]) -> npt.NDArray[np.float32]:
        texts = [str(item.features["text"]) for item in items]
        return tiny.encode(plain / ITEM_TOWER, texts)

    with serving(retriever, encode) as address:
        found = triton(address, [{"inputs": [text(*names)]}], "item_tower")
    (result,) = found["results"]
    assert found["described"]["model"]["name"] == "item_tower"
    np.testing.assert_array_equal(np.float32(result["vectors"]), tiny.encode(plain / ITEM_TOWER, names))


def test_a_long_batch_of_queries_is_encoded_in_slices(
    retriever: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the searches of others do not wait for all of it."""
    sizes: list[int] = []
    encode = retriever.encode_prepared

    def counted(prepared: Any, *more: Any) -> Any:
        sizes.append(len(prepared))
        return encode(prepared, *more)

    monkeypatch.setattr(retriever, "encode_prepared", counted)
    texts = [f"bake {n}" for n in range(200)]
    inputs = [tensor(shape=[200, 1], contents={"bytes_contents": [each.encode() for each in texts]})]
    request = wire.ModelInferRequest(model_name="query_tower", inputs=inputs)
    with serving(retriever, limits=RequestLimits()) as address, grpc.insecure_channel(address) as channel:
        stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        (output,) = stub.ModelInfer(request, timeout=10).outputs
    assert len(sizes) > 1
    assert sum(sizes) == len(texts)
    monkeypatch.undo()
    found = np.array(output.contents.fp32_contents, np.float32).reshape(output.shape)
    np.testing.assert_allclose(found, retriever.encode([Query(each) for each in texts]).vectors, atol=1e-6)


def tensor(**changed: Any) -> dict[str, Any]:
    """A typed tensor of one text, or something else."""
    typed = {"name": "text", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [b"a"]}}
    return {**typed, **changed}


def test_typed_contents_are_answered_with_typed_contents(stub: Any, retriever: Retriever) -> None:
    contents = {"bytes_contents": [each.encode() for each in TEXTS]}
    inputs = [tensor(shape=[len(TEXTS), 1], contents=contents)]
    response = stub.ModelInfer(wire.ModelInferRequest(model_name="query_tower", inputs=inputs), timeout=5)
    (output,) = response.outputs
    assert (output.name, output.datatype, [*output.shape]) == ("vector", "FP32", [4, DIMENSION])
    found = np.array(output.contents.fp32_contents, np.float32).reshape(output.shape)
    np.testing.assert_array_equal(found, retriever.encode([Query(each) for each in TEXTS]).vectors)
    assert not response.raw_output_contents


RAW = struct.pack("<I", 1) + b"a"
BARE = {"name": "text", "datatype": "BYTES", "shape": [1]}


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ({}, "inputs.text: required, but missing"),
        ({"inputs": [BARE]}, "inputs.text: expected 1 element, as its shape says, got 0"),
        ({"inputs": [tensor(), tensor()]}, "inputs.text: given twice"),
        ({"inputs": [tensor(name="")]}, "inputs.: unknown"),
        ({"inputs": [tensor(shape=[])]}, "inputs.text: expected a shape of 1 or 2 dimensions, got 0"),
        ({"inputs": [tensor(shape=[1, 1, 1])]}, "inputs.text: expected a shape of 1 or 2 dimensions, got 3"),
        ({"inputs": [tensor(shape=[-1])]}, "inputs.text: expected 1 to 8 rows, got -1"),
        ({"inputs": [tensor(shape=[0])]}, "inputs.text: expected 1 to 8 rows, got 0"),
        ({"inputs": [tensor(shape=[2**62, 2**62])]}, "inputs.text: expected 1 to 8 rows, got 46116860"),
        ({"inputs": [tensor(shape=[1, -1])]}, "inputs.text: expected 1 column, got -1"),
        ({"inputs": [tensor(shape=[2])]}, "inputs.text: expected 2 elements, as its shape says, got 1"),
        ({"inputs": [tensor(datatype="")]}, "inputs.text: expected datatype BYTES, got ''"),
        ({"inputs": [tensor(contents={"bytes_contents": [b"\xff"]})]}, "inputs.text[0]: expected UTF-8"),
        ({"inputs": [tensor(contents={"fp32_contents": [1]})]}, "inputs.text: expected bytes_contents, as"),
        (
            {"inputs": [tensor(parameters={"shared_memory_region": {"string_param": "x"}})]},
            "inputs.text.parameters: none are known here, got 'shared_memory_region'",
        ),
        (
            {"inputs": [tensor()], "outputs": [{"name": "vector", "parameters": {"classification": {}}}]},
            "outputs.vector.parameters: none are known here, got 'classification'",
        ),
        ({"inputs": [tensor()], "outputs": [{"name": "vector"}] * 2}, "outputs.vector: asked for 2 times"),
        (
            {"inputs": [tensor()], "raw_input_contents": [RAW]},
            "inputs.text: expected either contents or raw_input_contents, got both",
        ),
        (
            {"inputs": [BARE], "raw_input_contents": [RAW, RAW]},
            "raw_input_contents: expected 1, one for each input, got 2",
        ),
        ({"inputs": [BARE], "raw_input_contents": [RAW[:3]]}, "inputs.text[0]: ends before its length says"),
        ({"inputs": [BARE], "raw_input_contents": [RAW[:4]]}, "inputs.text[0]: ends before its length says"),
        ({"inputs": [BARE], "raw_input_contents": [b"\xff" * 4]}, "inputs.text[0]: ends before its length"),
        ({"inputs": [BARE], "raw_input_contents": [b""]}, "inputs.text: expected 1 element, as its shape"),
        ({"inputs": [BARE], "raw_input_contents": [RAW * 2]}, "inputs.text: expected 1 element, as its"),
    ],
)
def test_a_bad_request_is_refused_by_name(stub: Any, request_: dict[str, Any], error: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(wire.ModelInferRequest(model_name="query_tower", **request_), timeout=5)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert (caught.value.details() or "").startswith(error)


def test_metadata_of_what_is_not_served_is_refused(stub: Any) -> None:
    for name, version, field in (("item_tower", "", "name"), ("query_tower", "2", "version")):
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelMetadata(wire.ModelMetadataRequest(name=name, version=version), timeout=5)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        assert (caught.value.details() or "").startswith(f"{field}: ")
