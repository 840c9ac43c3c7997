"""ONNX models with weights outside their own file are found, wherever in the model they are."""

from pathlib import Path

import onnx
import pytest
from onnx import GraphProto, ModelProto, SparseTensorProto, TensorProto, TrainingInfoProto, helper

from tests.helpers.tiny_towers import TinyTower, write_tower
from twinspire.protos.errors import BundleDamaged
from twinspire.protos.files.onnx_file import DATA_LOCATION, EXTERNAL_DATA, FIELDS, check_self_contained


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    path = tmp_path_factory.mktemp("tower") / "tower.onnx"
    write_tower(path, TinyTower())
    check_self_contained(path)
    return onnx.load(path)


def external(location: str = "weights.bin", located: bool = True) -> TensorProto:
    """A tensor with its data in another file."""
    tensor = TensorProto(dims=[1], data_type=TensorProto.FLOAT, name="outside")
    tensor.external_data.add(key="location", value=location)
    if located:
        tensor.data_location = TensorProto.EXTERNAL
    return tensor


CONSTANT = helper.make_node("Constant", [], ["c"], value=external("../x"))
SPARSE = SparseTensorProto(values=external(), dims=[1])
INNER = helper.make_graph([], "inner", [], [], [external("*/_ORT_MEM_ADDR_/*")])
PARTS = {
    "initializer": ModelProto(graph=GraphProto(initializer=[external()])),
    "unlocated": ModelProto(graph=GraphProto(initializer=[external("/etc/hostname", located=False)])),
    "attribute": ModelProto(graph=GraphProto(node=[CONSTANT])),
    "sparse": ModelProto(
        graph=GraphProto(sparse_initializer=[SparseTensorProto(values=external(), dims=[1])])
    ),
    "branch": ModelProto(graph=GraphProto(node=[helper.make_node("If", ["c"], ["o"], then_branch=INNER)])),
    "function": ModelProto(functions=[helper.make_function("d", "f", [], ["c"], [CONSTANT], [])]),
    "training": ModelProto(training_info=[TrainingInfoProto(algorithm=GraphProto(initializer=[external()]))]),
}


@pytest.mark.parametrize("part", PARTS)
def test_external_data_are_found_wherever_they_are(model: onnx.ModelProto, tmp_path: Path, part: str) -> None:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    changed.MergeFrom(PARTS[part])
    path = tmp_path / "tower.onnx"
    path.write_bytes(changed.SerializeToString())
    with pytest.raises(BundleDamaged, match=r"tower\.onnx: a tensor has external data"):
        check_self_contained(path)


def test_the_fields_are_all_that_lead_to_a_tensor() -> None:
    known = {
        descriptor.name: descriptor
        for descriptor in onnx.ModelProto.DESCRIPTOR.file.message_types_by_name.values()
    }
    leads = {"TensorProto"}
    while True:
        more = {
            name
            for name, each in known.items()
            if any(field.message_type and field.message_type.name in leads for field in each.fields)
        }
        if more <= leads:
            break
        leads |= more
    reachable = {
        name: {
            field.number: field.message_type.name
            for field in known[name].fields
            if field.message_type and field.message_type.name in leads
        }
        for name in leads
    }
    assert {name: dict(fields) for name, fields in FIELDS.items()} == reachable
    tensor = known["TensorProto"].fields_by_name
    assert (tensor["external_data"].number, tensor["data_location"].number) == (EXTERNAL_DATA, DATA_LOCATION)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no tower",
        b"\x3a\xff",  # a graph longer than the file
        b"\x3b\x3c",  # a group
        b"\x80" * 20,
        b"\xba\x80\x80\x80\x10\x00",  # field 7 of a reader that keeps 32 bits of a tag
    ],
)
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tower.onnx"
    path.write_bytes(content)
    with pytest.raises(BundleDamaged, match=r"tower\.onnx: not an ONNX model"):
        check_self_contained(path)
