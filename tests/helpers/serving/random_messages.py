"""Random messages of protobuf, with every kind of value that a field may hold."""

import random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp

from twinspire.protos import catalogue_pb2, retrieval_pb2
from twinspire.serving.gateway.messages import AS_TEXT, is_map

DESCRIPTORS: list[Any] = [
    descriptor
    for file in (retrieval_pb2.DESCRIPTOR, catalogue_pb2.DESCRIPTOR)
    for descriptor in file.message_types_by_name.values()
]
TEXTS = ("", "a", 'quo"te\n', "\u2028", "žluťoučký 🐴", "x" * 300)
FLOATS = (0.0, -0.0, 1.0, 0.1, 1 / 3, -1e-30, 3.4e38, 1.2e-38, 16777217.0, float("inf"), float("nan"))


def random_message(descriptor: Any, draw: random.Random, depth: int = 0) -> Message:
    """A message of a type; messages in it end after some levels."""
    message = GetMessageClass(descriptor)()
    if isinstance(message, Timestamp):
        message.FromMicroseconds(draw.randrange(2**50))
        return message
    for field in descriptor.fields:
        if draw.random() < 0.3 or (depth > 3 and field.message_type is not None):
            continue  # a field of a oneof that comes later replaces the one before
        if is_map(field):
            _fill_map(message, field, draw, depth)
        elif field.is_repeated:
            values = [_value(field, draw, depth) for _ in range(draw.randrange(4))]
            getattr(message, field.name).extend(values)
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(_value(field, draw, depth))
        else:
            setattr(message, field.name, _value(field, draw, depth))
    return message


def _fill_map(message: Any, field: Any, draw: random.Random, depth: int) -> None:
    value = field.message_type.fields_by_name["value"]
    target = getattr(message, field.name)
    for key in draw.sample(TEXTS, draw.randrange(3)):
        if value.message_type is not None:
            target[key].CopyFrom(_value(value, draw, depth))
        else:
            target[key] = _value(value, draw, depth)


def _value(field: Any, draw: random.Random, depth: int) -> Any:
    if field.message_type is not None:
        return random_message(field.message_type, draw, depth + 1)
    if field.enum_type is not None:
        return draw.choice([value.number for value in field.enum_type.values])
    if field.type == FieldDescriptor.TYPE_FLOAT:
        return draw.choice((*FLOATS, draw.uniform(-1, 1)))
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return draw.choice((*FLOATS, 1e308, draw.uniform(-1, 1), 1.7e9))
    if field.name.endswith(AS_TEXT):
        return draw.choice(("", '{"a": [1, "b"]}'))
    if field.type == FieldDescriptor.TYPE_STRING:
        return draw.choice(TEXTS)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return draw.random() < 0.5
    if field.type == FieldDescriptor.TYPE_BYTES:
        return draw.randbytes(draw.randrange(9))
    return draw.choice((0, 1, 2**31, 2**32 - 1 if field.type == FieldDescriptor.TYPE_UINT32 else 2**64 - 1))
