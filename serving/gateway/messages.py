"""Protobuf messages to JSON and back, by protobuf's own mapping with the names of the .proto files.

Three things differ: 64-bit integers are numbers, a field `NAME_json` is an object under `NAME`, and a
request's filter may be a text, as `serving.filters.text` describes.

Reading is left to `google.protobuf.json_format`, which takes 15 us for a search. Writing an answer of ten
hits would take it 117 us, and vectors twice as long as here. `document` walks a plan that is made once for
each message type, and takes 65 us (AMD EPYC); `tests/serving/gateway/test_messages.py` compares the two.
"""

import base64
import json
import math
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.errors import InvalidInput
from twinspire.protos.names import near
from twinspire.serving.gateway.failures import TOO_LARGE, HttpFailure, invalid
from twinspire.serving.wire.filter_converters import filter_to_wire

Convert = Callable[[Any], Any]
Path = tuple[str | int, ...]  # of a field in a message: names of fields, places in lists and keys of maps
WELL_KNOWN = "google.protobuf."  # messages with a mapping of their own
AS_TEXT = "_json"  # at the end of a field's name: its text is JSON
FAILED, PLACE = re.compile(r"Failed to parse (\w+) field: "), re.compile(r" at \w+Request[\w.\[\]]*$")
MAX_DEPTH = 100  # messages inside each other, as in protobuf's own reader
JSON_TYPES = {
    type(None): "null",
    list: "a list",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a boolean",
}
LONGEST_REASON = 300
MAX_FIELDS = 131_072  # objects in a body of items and the names in them; each takes up to 6 us
QUERIES_SHARE, QUERY_SHARE = 4, 16  # so much fewer in a body of queries, and of one query
ITEMS_FILE = "catalogue.proto"
LARGE_BYTES = 64 << 10  # of a body; `json_format` reads the lists of a smaller one in at most 20 ms
# Of a body that `parse` reads in at most 10 ms: bytes, and tokens of JSON and of a filter's text.
LIGHT_BYTES, LIGHT_TOKENS = 64 << 10, 1000
# Words that join the conditions of a filter's text, and escapes of ASCII characters, which may hide them.
JOINS = re.compile(rb"or|and|\\u00[2-7]", re.IGNORECASE)
LIGHT_MESSAGE_BYTES = 128 << 10  # of a message that `to_json` writes in at most 10 ms

_json = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":"))


def is_heavy(content: bytes | bytearray) -> bool:
    """Whether to parse this JSON may take more than 10 ms."""
    if len(content) > LIGHT_BYTES:
        return True
    tokens = sum(map(content.count, (b"{", b":", b",", b"=", b"<", b">")))
    return tokens + len(JOINS.findall(content)) > LIGHT_TOKENS


def to_json(message: Message) -> bytes:
    """A message as one line of JSON; fields without presence are written also where they hold the default."""
    return encode(document(message))


def encode(given: Any) -> bytes:
    """A document as one line of JSON."""
    return _json.encode(given).encode()


def document(message: Message) -> dict[str, Any]:
    """A message as JSON's objects, lists and values."""
    written: dict[str, Any] = _writer(message.DESCRIPTOR)(message)
    return written


def parse(content: bytes | bytearray, kind: type[Message], max_fields: int = MAX_FIELDS) -> Any:
    """The message that JSON describes.

    Args:
        content: the JSON; an empty or blank text is an empty message.
        max_fields: bound on the number of objects and their fields in a request that holds items, and in the
            JSON of a filter's text; and, in a large body, on the number of elements in lists that
            `json_format` has to read one by one. Queries have fewer: a quarter may be in a request with
            several, a sixteenth in one with one.

    Raises:
        Failure: it is no JSON, does not fit, or has too many fields; the message names the field.
    """
    message = kind()
    if not content.strip():
        return message
    max_fields = _most_fields(message.DESCRIPTOR, max_fields)
    given = _decode(content, max_fields)
    reader = _BodyReader(max_fields, is_large=len(content) > LARGE_BYTES)
    reader.read(given, message.DESCRIPTOR)
    try:
        json_format.ParseDict(given, message)
    except json_format.ParseError as error:
        raise invalid(_reason(str(error))) from None
    except UnicodeEncodeError:
        raise invalid("body: expected Unicode, got a lone surrogate") from None
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise invalid(f"body: expected {kind.DESCRIPTOR.full_name}: {error}"[:LONGEST_REASON]) from None
    for path, values in reader.lists:
        place: Any = message
        for step in path:
            place = getattr(place, str(step)) if isinstance(place, Message) else place[step]
        place.extend(values)
    return message


class _BodyReader:
    """Checks the JSON of a message for unknown fields, which protobuf would refuse without a hint.

    Of a large body it also takes plain lists of texts and numbers out of the JSON: `json_format` takes 1 us
    for each element of a list, and `extend` of a field of the message far less.

    Args:
        most: bound on the objects in the text of a filter and their fields; and, in a large body, on the
            elements of the lists that are left in the JSON, because not all are plain.
        is_large: whether the body is.

    Attributes:
        lists: the lists that were taken, each with its path in the message; an empty one takes its place.
    """

    def __init__(self, most: int, is_large: bool) -> None:
        self.lists: list[tuple[Path, list[Any]]] = []
        self._most, self._is_large, self._left = most, is_large, 0

    def read(self, given: Any, descriptor: Any, path: Path = (), depth: int = 0) -> None:
        """Check the JSON of a message, in which objects replace the texts of filters.

        Args:
            path: of the message in the request.
            depth: number of messages around it.

        Raises:
            Failure: a field is unknown, and the text names the one that was probably meant; a message is no
                object, as an empty list, and no text of a filter, or a text with too many conditions; there
                are more than `MAX_DEPTH` messages inside each other, or too many elements in lists.
        """
        if descriptor.full_name.startswith(WELL_KNOWN):
            return
        if not isinstance(given, dict):
            got = JSON_TYPES.get(type(given), type(given).__name__)
            raise invalid(f"{_shown(path) or 'body'}: expected a JSON object, got {got}")
        if depth > MAX_DEPTH:
            raise invalid(f"{_shown(path)[:100]}…: nested too deeply")
        fields = _fields(descriptor)
        for name, value in given.items():
            if name not in fields:
                raise invalid(_unknown(f"{_shown(path)}." if path else "", name, descriptor))
            field, kind = fields[name]
            if isinstance(value, str) and may_be_text(field):
                given[name] = value = _filter(value, self._most)
            if kind is not None and value is not None:
                for key, each in _keyed(field, value):
                    self.read(each, kind, (*path, field.name, *key), depth + 1)
            elif self._is_large and kind is None and field.is_repeated and isinstance(value, list) and value:
                given[name] = self._rest(field, value, (*path, field.name))

    def _rest(self, field: FieldDescriptor, values: list[Any], path: Path) -> list[Any]:
        """The elements of a list that `json_format` has to read: none, or all."""
        plain = _plain(field, values)
        if plain is not None:
            self.lists.append((path, plain))
            return []
        self._left += len(values)
        if self._left > self._most:
            raise _too_many(self._most)
        return values


def _shown(path: Path) -> str:
    """The path of a field, as an error names it: `queries[3].filter`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")


def _plain(field: FieldDescriptor, values: list[Any]) -> list[Any] | None:
    """The elements of a list as protobuf takes them; None if `json_format` has to read or refuse one."""
    types = set(map(type, values))
    try:
        if field.type == FieldDescriptor.TYPE_STRING and types == {str}:
            "".join(values).encode()
            return values
        if field.type == FieldDescriptor.TYPE_DOUBLE and types <= {int, float, str}:
            found = [math.nan if each == "NaN" else each for each in values] if str in types else values
            if str not in map(type, found) and not any(map(math.isinf, found)):
                return found
    except (UnicodeEncodeError, OverflowError):  # a lone surrogate; an integer beyond all doubles
        pass
    return None


@cache
def _most_fields(descriptor: Descriptor, of_items: int) -> int:
    """Bound on the objects and fields of a request, from that of a request with items."""
    if descriptor.file.name.endswith(ITEMS_FILE):
        return of_items
    has_many = any(field.is_repeated and field.message_type is not None for field in descriptor.fields)
    return max(1, of_items // (QUERIES_SHARE if has_many else QUERY_SHARE))


def _decode(content: bytes | bytearray, max_fields: int) -> Any:
    """A body's JSON; arguments and errors as of `parse`."""
    count = 0

    def made(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal count
        found = _object(pairs)
        count += 1 + len(pairs)
        if count > max_fields:
            raise _too_many(max_fields)
        return found

    try:
        return json.loads(content.decode(), object_pairs_hook=made, parse_constant=_constant)
    except UnicodeDecodeError as error:
        raise invalid(f"body: expected UTF-8, got another byte at {error.start}") from None
    except RecursionError:
        raise invalid("body: nested too deeply") from None
    except ValueError as error:
        raise invalid(f"body: expected JSON: {error}"[:LONGEST_REASON]) from None


def _too_many(most: int) -> HttpFailure:
    """The failure of a body that holds more than a request of its kind may."""
    what = "objects, fields, and elements of lists with mixed values"
    return invalid(f"body: expected at most {most} {what} (--max-body-fields)", TOO_LARGE)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"{name[:100]!r} is given twice")
            seen.add(name)
    return found


def _constant(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


@cache
def _fields(descriptor: Descriptor) -> dict[str, tuple[FieldDescriptor, Any]]:
    """The fields, and the type of the messages in each, None where it holds none.

    They are by their names in the .proto file, and by those in protobuf's usual JSON, which is read too.
    """
    fields = [(field, _value_type(field)) for field in descriptor.fields]
    return {name: each for each in fields for name in (each[0].json_name, each[0].name)}


def _unknown(prefix: str, name: str, descriptor: Descriptor) -> str:
    names = [field.name for field in descriptor.fields]
    known = f"expected one of {', '.join(names)}" if names else "expected none"
    return f"{prefix}{name[:100]}: unknown field{near(name, names) or f'; {known}'}"


def _reason(text: str) -> str:
    """What `json_format` says, with the path of the field in front."""
    path = []
    while (found := FAILED.match(text)) is not None:
        path.append(found[1])
        text = text[found.end() :]
    text = PLACE.sub("", text).strip().rstrip(".")
    return f"{'.'.join(path) or 'body'}: {text[:1].lower()}{text[1:]}"[:LONGEST_REASON]


def may_be_text(field: FieldDescriptor) -> bool:
    """Whether a field is a request's filter, which may be given as a text; filters in it may not."""
    kind = wire.Filter.DESCRIPTOR
    return field.message_type is kind and field.containing_type is not kind and not field.is_repeated


def name_of(field: FieldDescriptor) -> str:
    """The name of a field in the JSON of an answer."""
    return field.name.removesuffix(AS_TEXT)


def _filter(text: str, max_fields: int) -> Any:
    try:
        return _decode(to_json(filter_to_wire(text)), max_fields)
    except InvalidInput as error:
        raise invalid(str(error)) from None


def is_map(field: FieldDescriptor) -> bool:
    """Whether a field is a map."""
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _value_type(field: FieldDescriptor) -> Any:
    kind: Any = field.message_type
    return kind.fields_by_name["value"].message_type if is_map(field) else kind


def _keyed(field: FieldDescriptor, value: Any) -> Iterator[tuple[Path, Any]]:
    """The messages in a field's value, with their places: none, one in a list, or a key of a map.

    They come one by one, so that a wrong first element of a long list is refused at once.
    """
    if is_map(field):
        if isinstance(value, dict):
            yield from (((key,), each) for key, each in value.items())
    elif field.is_repeated:
        if isinstance(value, list):
            yield from (((n,), each) for n, each in enumerate(value))
    else:
        yield (), value


@cache
def _writer(descriptor: Any) -> Convert:
    """The function that converts messages of a type to documents."""
    if descriptor.full_name.startswith(WELL_KNOWN):
        return json_format.MessageToDict
    # Names in the message and in JSON, whether it may be absent, and conversion; filled at the first message,
    # for a type may contain itself.
    plan: list[tuple[str, str, bool, Convert | None]] = []

    def write(message: Message) -> dict[str, Any]:
        found = {}
        for name, shown, may_be_absent, convert in plan or filled():
            if may_be_absent and not message.HasField(name):
                continue
            value = getattr(message, name)
            found[shown] = value if convert is None else convert(value)
        return found

    def filled() -> list[tuple[str, str, bool, Convert | None]]:
        fields = descriptor.fields
        plan.extend((each.name, name_of(each), each.has_presence, _field(each)) for each in fields)
        return plan

    return write


def _field(field: FieldDescriptor) -> Convert | None:
    """The function that converts a field's value to a document; None where it stays as it is."""
    if is_map(field):
        kind: Any = field.message_type
        assert kind.fields_by_name["key"].type == FieldDescriptor.TYPE_STRING, "keys of maps are strings"
        convert = _value(kind.fields_by_name["value"])
        if convert is None:
            return dict
        convert_one = convert
        return lambda values: {key: convert_one(value) for key, value in values.items()}
    convert = _value(field)
    if not field.is_repeated:
        return convert
    if convert is None:
        return list
    convert_each = convert
    return lambda values: [convert_each(value) for value in values]


def _value(field: FieldDescriptor) -> Convert | None:
    """The function that converts one value of a field; None where it stays as it is."""
    if field.message_type is not None:
        return _writer(field.message_type)
    if field.enum_type is not None:
        names = {value.number: value.name for value in field.enum_type.values}
        return lambda number: names.get(number, number)
    if field.name.endswith(AS_TEXT):
        return lambda text: json.loads(text) if text else {}
    if field.type == FieldDescriptor.TYPE_FLOAT:
        return _single
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return lambda value: value if math.isfinite(value) else _not_finite(value)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return lambda value: base64.b64encode(value).decode()
    return None


def _single(value: float) -> Any:
    """A 32-bit float with as few digits as tell it from its neighbours."""
    return float(str(np.float32(value))) if math.isfinite(value) else _not_finite(value)


def _not_finite(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"
