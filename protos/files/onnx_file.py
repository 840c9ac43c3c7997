"""Checks that an ONNX file contains all of its weights; a bundle must not have any other.

A tensor of an ONNX model may name another file as the place of its data. No manifest lists that file and no
hash covers it, and ONNX Runtime even accepts an address in its own memory. How it confines such paths differs
between versions: 1.32 accepts any relative path inside the model's folder. So a model with external data is
refused before ONNX Runtime opens it.

The check walks through the tags of the protobuf message, skips the weights and copies nothing. It does not
use the `onnx` package, which serving does not have; parsing with a partial schema would copy all weights into
unknown fields.
"""

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path

from twinspire.protos.errors import BundleDamaged

# Message -> field number -> message of that field, for all messages that contain tensors (onnx.proto3).
FIELDS: Mapping[str, Mapping[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {},
}
EXTERNAL_DATA, DATA_LOCATION = 13, 14  # fields of a TensorProto
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # wire types
LONGEST_VARINT = 10  # bytes
HIGHEST_TAG = 2**32 - 1
MAX_LEVELS = 100  # of nested messages, the limit of protobuf itself

Span = tuple[int, int]  # first byte, and the byte after the last


def check_self_contained(path: Path) -> None:
    """Make sure that no tensor of an ONNX model has its data in another file.

    Raises:
        BundleDamaged: a tensor has, or the file cannot be read or is not an ONNX model.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            external = _has_external_data(content)
    except OSError as error:
        raise BundleDamaged(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise BundleDamaged(f"{path}: not an ONNX model: {error}") from None
    if external:
        raise BundleDamaged(f"{path}: a tensor has external data, expected all weights inside the model")


def _has_external_data(content: mmap.mmap) -> bool:
    # One iterator a level: memory does not grow with the number of messages.
    levels = [("ModelProto", _fields(content, (0, len(content))))]
    while levels:
        message, fields = levels[-1]
        for number, wire_type, value in fields:
            if message == "TensorProto":
                # No location and location 0 both mean: in the tensor itself.
                if number == EXTERNAL_DATA or (number == DATA_LOCATION and value != (0, 0)):
                    return True
            elif wire_type == LENGTH and number in FIELDS[message]:
                if len(levels) == MAX_LEVELS:
                    raise ValueError(f"messages are nested more than {MAX_LEVELS} levels deep")
                levels.append((FIELDS[message][number], _fields(content, value)))
                break
        else:
            levels.pop()
    return False


def _fields(content: mmap.mmap, span: Span) -> Iterator[tuple[int, int, Span]]:
    """Number, wire type and value of each field of a message.

    The value is the span of the field's bytes; for a varint, the number itself and 0.
    """
    at, end = span
    while at < end:
        tag, at = _varint(content, at, end)
        if tag > HIGHEST_TAG:  # protobuf would drop the higher bits and read another field
            raise ValueError(f"byte {at}: a tag of more than 32 bits")
        number, wire_type = tag >> 3, tag & 7
        if wire_type == VARINT:
            value, at = _varint(content, at, end)
            yield number, wire_type, (value, 0)
            continue
        if wire_type == LENGTH:
            length, at = _varint(content, at, end)
        elif wire_type in (FIXED64, FIXED32):
            length = 8 if wire_type == FIXED64 else 4
        else:
            raise ValueError(f"byte {at}: wire type {wire_type}")
        if length > end - at:
            raise ValueError(f"byte {at}: a field of {length} bytes, but {end - at} are left")
        yield number, wire_type, (at, at + length)
        at += length


def _varint(content: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """A number, and the offset of the byte after it."""
    number = 0
    for n in range(LONGEST_VARINT):
        if at >= end:
            break
        byte = content[at]
        at += 1
        number |= (byte & 0x7F) << 7 * n
        if byte < 0x80:
            return number, at
    raise ValueError(f"byte {at}: a number that does not end")
