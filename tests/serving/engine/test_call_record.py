"""The id of a request: the client's, cleaned and bounded, or one of its own."""

import uuid

import pytest

from twinspire.serving.engine.call_record import CallRecord
from twinspire.serving.engine.front import Metadata


def call(metadata: Metadata) -> CallRecord:
    return CallRecord("/retrieval.v1.Retrieval/Search", "OK", metadata, 0, 1)


def test_a_record_shows_no_token() -> None:
    each = call((("authorization", "Bearer hunter2"), ("x-note-bin", b"hunter2")))
    assert "hunter2" not in repr(each)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("7f3c-11", "7f3c-11"),
        ('a"b\nc\x1b[31m', "abc31m"),
        ("x" * 5000, "x" * 128),
        ("日本 1", "1"),
    ],
)
def test_a_clients_id_is_cleaned_and_bounded(given: str, kept: str) -> None:
    assert call((("x-request-id", given),)).request_id == kept


@pytest.mark.parametrize("metadata", [(), (("x-request-id", ""),), (("x-request-id", "\n"),)], ids=repr)
def test_a_request_without_an_id_gets_one_of_its_own(metadata: Metadata) -> None:
    first, second = call(metadata), call(metadata)
    assert uuid.UUID(first.request_id).version == 4
    assert first.request_id == first.request_id != second.request_id
