"""Raw tensors, whatever is in them: read as they were written, or refused by name."""

import math
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos import open_inference_pb2 as wire
from protos.errors import InvalidInput
from protos.features import HistoryFeature, IdFeature
from serving.api.open_inference import queries_from_wire
from serving.api.tensors import decoded, received, unpacked
from serving.wire.converters import RequestLimits
from tests.helpers.tiny_towers import FULL, HISTORY

EVERY_KIND = {
    **FULL,
    "history": HISTORY,
    "seen": HistoryFeature("history", times=True),
    "item": IdFeature("id"),
}
quick = settings(derandomize=True, database=None, deadline=None)
unicode = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def packed(elements: list[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


@quick
@given(st.lists(unicode, max_size=20))
def test_raw_strings_are_read_as_they_were_written(texts: list[str]) -> None:
    raw = packed([text.encode() for text in texts])
    assert decoded(unpacked(raw, len(texts), "inputs.text"), "inputs.text") == texts
    for count in {0, len(texts) + 1, 2**62} - {len(texts)}:
        with pytest.raises(InvalidInput, match=r"^inputs\.text: expected \d+ elements?, "):
            unpacked(raw, count, "inputs.text")


@quick
@given(st.lists(unicode, min_size=1, max_size=20), st.data())
def test_raw_strings_that_are_cut_off_are_refused(texts: list[str], data: st.DataObject) -> None:
    raw = packed([text.encode() for text in texts])
    cut = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(InvalidInput, match=r"^inputs\.text"):
        unpacked(raw[:cut], len(texts), "inputs.text")


@quick
@given(st.binary(max_size=200), st.integers(0, 20))
def test_any_bytes_are_read_or_refused(raw: bytes, count: int) -> None:
    try:
        elements = unpacked(raw, count, "inputs.text")
    except InvalidInput as error:
        assert error.field.startswith("inputs.text")
    else:
        assert packed(elements) == raw
        assert len(elements) == count


@pytest.mark.parametrize("element", [b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"caf\xc3"])
def test_what_is_not_utf8_is_refused(element: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"^inputs\.text\[1\]: expected UTF-8"):
        decoded([b"fine", element], "inputs.text")


@quick
@given(st.lists(st.floats(width=32), min_size=1, max_size=20), st.sampled_from(["FP32", "FP64"]))
def test_numbers_are_the_same_in_both_forms(numbers: list[float], datatype: str) -> None:
    code = {"FP32": "f", "FP64": "d"}[datatype]
    tensor = {"name": "age", "datatype": datatype, "shape": [len(numbers)]}
    raw = struct.pack(f"<{len(numbers)}{code}", *numbers)
    typed = {f"fp{datatype[2:]}_contents": numbers}
    for request in (
        wire.ModelInferRequest(inputs=[tensor], raw_input_contents=[raw]),
        wire.ModelInferRequest(inputs=[{**tensor, "contents": typed}]),
    ):
        found = received(request)["age"].numbers(len(numbers))
        assert all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(found, numbers, strict=True))


contents = st.fixed_dictionaries(
    {},
    optional={
        "bytes_contents": st.lists(st.binary(max_size=4), max_size=4),
        "fp32_contents": st.lists(st.floats(width=32), max_size=4),
        "int_contents": st.lists(st.integers(-5, 5), max_size=4),
    },
)
inputs = st.fixed_dictionaries(
    {
        "name": st.sampled_from([*EVERY_KIND, "seen__times", "other", ""]),
        "datatype": st.sampled_from(["BYTES", "FP32", "FP64", "INT64", ""]),
        "shape": st.lists(st.sampled_from([0, 1, 2, -1, 2**62]), max_size=3),
    },
    optional={"contents": contents},
)


@settings(quick, max_examples=100)
@given(st.lists(inputs, max_size=4), st.lists(st.binary(max_size=20), max_size=4), st.data())
def test_any_request_is_read_or_refused(
    tensors: list[dict[str, Any]], raw: list[bytes], data: st.DataObject
) -> None:
    request = wire.ModelInferRequest(inputs=tensors, raw_input_contents=raw)
    features = {
        name: EVERY_KIND[name] for name in data.draw(st.sets(st.sampled_from([*EVERY_KIND]), min_size=1))
    }
    try:
        queries = queries_from_wire(request, features, RequestLimits(max_batch=2))
    except InvalidInput as error:
        assert error.field.startswith(("inputs.", "raw_input_contents"))
    else:
        assert 1 <= len(queries) <= 2
        assert all({*query.features} <= {*features} for query in queries)


def test_an_id_that_is_too_long_is_named_by_the_tensor_of_its_history() -> None:
    inputs: list[dict[str, Any]] = [
        {"name": "seen", "datatype": "BYTES", "contents": {"bytes_contents": [b"a", b"b", b"c", b"d" * 6]}},
        {"name": "seen__times", "datatype": "FP64", "contents": {"fp64_contents": [1.0, 2.0, 3.0, 4.0]}},
    ]
    age = {"name": "age", "datatype": "FP32", "shape": [2], "contents": {"fp32_contents": [1.0, 2.0]}}
    request = wire.ModelInferRequest(inputs=[age, *({**each, "shape": [2, 2]} for each in inputs)])
    features = {name: EVERY_KIND[name] for name in ("age", "seen")}
    with pytest.raises(InvalidInput) as caught:
        queries_from_wire(request, features, RequestLimits(max_text_length=5))
    assert caught.value.field == "inputs.seen[1]"
    assert caught.value.reason == "expected at most 5 code points in each of the items, got 6"
