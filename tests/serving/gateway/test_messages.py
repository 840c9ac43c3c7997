"""Messages as JSON: protobuf's own mapping, and errors that name the field."""

import json
import random
import time
import tracemalloc
from typing import Any

import pytest
from google.protobuf import json_format

from tests.helpers.serving.gateways import as_json
from tests.helpers.serving.random_messages import DESCRIPTORS, random_message
from twinspire.protos import catalogue_pb2
from twinspire.protos import retrieval_pb2 as wire
from twinspire.serving.gateway import messages
from twinspire.serving.gateway.failures import HttpFailure
from twinspire.serving.gateway.messages import parse, to_json
from twinspire.serving.wire.converters import RequestLimits
from twinspire.serving.wire.filter_converters import filter_to_wire

ROUNDS = 30


@pytest.mark.parametrize("large_bytes", [messages.LARGE_BYTES, 0], ids=["small", "large"])
@pytest.mark.parametrize("descriptor", DESCRIPTORS, ids=lambda descriptor: descriptor.name)
def test_a_message_is_written_and_read_as_protobuf_does(
    descriptor: Any, large_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "LARGE_BYTES", large_bytes)
    draw = random.Random(descriptor.full_name)
    for _ in range(ROUNDS):
        message = random_message(descriptor, draw)
        written = to_json(message)
        assert json.loads(written) == as_json(message)
        if descriptor.name == "InfoResponse":
            continue  # no request holds one, and its manifest has another name
        again = parse(written, type(message))
        assert as_json(again) == as_json(message)  # messages with NaN do not equal themselves


def test_a_score_has_as_few_digits_as_tell_it_from_its_neighbours() -> None:
    hit = wire.Hit(score=0.4749)
    assert hit.score != 0.4749
    assert b'"score":0.4749,' in to_json(hit)


def test_an_unknown_number_of_an_enum_stays_a_number() -> None:
    answer = wire.SearchResponse.FromString(b"\x28\x63")  # field 5, basis: 99
    assert json.loads(to_json(answer))["basis"] == 99


def test_nothing_stands_for_an_empty_message() -> None:
    assert parse(b" \n", wire.SearchRequest) == wire.SearchRequest()


def test_protobufs_usual_names_are_read_too() -> None:
    assert parse(b'{"query":{"itemId":"a"}}', wire.SearchRequest).query.item_id == "a"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"quer": {}}', "quer: unknown field; did you mean query?"),
        (b'{"query": {"texts": "a"}}', "query.texts: unknown field; did you mean text?"),
        (b'{"query": {"zzz": "a"}}', "query.zzz: unknown field; expected one of text, history"),
        (b'{"filter":{"all":{"filters":[{},{"conditon":{}}]}}}', "filter.all.filters[1].conditon: unknown"),
        (b'{"query": {"features": {"price": {"numbr": 1}}}}', "query.features.price.numbr: unknown field"),
        (b'{"query": {"text": 3}}', "query.text: expected string"),
        (b'{"query": []}', "query: expected a JSON object, got a list"),
        (b'{"query": "text"}', "query: expected a JSON object, got a string"),
        (b"[]", "body: expected a JSON object, got a list"),
        (b"null", "body: expected a JSON object, got null"),
        (b'{"k": -1}', "k: value out of range: -1"),
        (b'{"k": 1.5}', "k: couldn't parse integer: 1.5"),
        (b'{"k": 1, "k": 2}', "body: expected JSON: 'k' is given twice"),
        (b'{"k": NaN}', "body: expected JSON: NaN is no number of JSON"),
        (b'{"k": 1', "body: expected JSON: "),
        (b'{"query": {"text": "\xff"}}', "body: expected UTF-8, got another byte at 20"),
        (b'{"query": {"text": "\\ud800"}}', "query: unpaired surrogate"),
        (b'{"min_sequence": ' + b"9" * 5000 + b"}", "body: expected JSON: "),
        (b'{"a":' * 100_000, "body: nested too deeply"),
        (b'{"filter":' + b'{"not":' * 150 + b"{}" + b"}" * 151, "filter.not.not."),
        (b'{"filter":{"condition":{"field":"a","present":true,"in":{}}}}', "filter: message type"),
        (b'{"filter": {"condition": {"equals": {"time": "soon"}}}}', "filter: "),
        (b'{"filter": {"not": "a = 1"}}', "filter.not: expected a JSON object, got a string"),
        (b'{"filter": {"all": {"filters": ["a = 1"]}}}', "filter.all.filters[0]: expected a JSON object"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(content: bytes, message: str) -> None:
    with pytest.raises(HttpFailure) as failure:
        parse(content, wire.SearchRequest)
    assert failure.value.http == 400
    assert failure.value.message.startswith(message)
    assert len(failure.value.message) <= 400
    json.loads(failure.value.body)


def test_a_name_that_is_given_twice_is_found_in_one_pass() -> None:
    """4 MB of names, the last one twice; a search for each of them would take hours."""
    names = [f'"{n:05x}":0' for n in range(400_000)]
    content = f"{{{','.join(names)},{names[-1]}}}".encode()
    began = time.process_time()
    with pytest.raises(HttpFailure, match=r"body: expected JSON: '61a7f' is given twice"):
        parse(content, wire.SearchRequest)
    assert time.process_time() - began < 30


@pytest.mark.parametrize(
    ("kind", "body", "value"),
    [
        (wire.SearchBatchRequest, '{"queries": [%s]}', "{}"),
        (wire.SearchRequest, '{"filter": {"all": {"filters": [%s]}}}', "{}"),
        (wire.SearchRequest, '{"query": {"history_times": [%s]}}', '"1"'),
        (wire.SearchRequest, '{"query": {"history": [1, %s]}}', '"a"'),
        (wire.SearchRequest, '{"filter": {"condition": {"in": {"values": [%s]}}}}', '{"number": 1}'),
    ],
    ids=["queries", "filters", "texts of numbers", "a wrong element", "values"],
)
def test_a_body_of_more_values_than_a_service_takes_is_refused(kind: Any, body: str, value: str) -> None:
    """Each value takes microseconds, in which no other request is answered."""
    content = (body % ",".join([value] * (messages.MAX_FIELDS + 1))).encode()
    with pytest.raises(HttpFailure, match=r"body: expected at most \d+ objects, fields, ") as failure:
        parse(content, kind)
    assert failure.value.http == 413


@pytest.mark.parametrize("kind", [wire.SearchRequest, wire.SearchBatchRequest])
@pytest.mark.parametrize(
    "text",
    ["a=1or " * 5000 + "a=1", f"a in [{'1,' * 16_000}1]", "a is null or " * 2500 + "a=1"],
    ids=["conditions", "values", "no signs"],
)
def test_a_text_of_a_filter_counts_as_the_json_that_it_stands_for(kind: Any, text: str) -> None:
    content = json.dumps({"filter": text}).encode()
    with pytest.raises(HttpFailure, match=r"body: expected at most 1024 objects, fields, ") as failure:
        parse(content, kind, 1024 * (16 if kind is wire.SearchRequest else 4))
    assert failure.value.http == 413


def test_a_text_of_as_many_conditions_and_values_as_a_service_takes_is_read() -> None:
    limits = RequestLimits()
    conditions = [f"a{n} = 1" for n in range(limits.max_filter_conditions - 1)]
    text = " or ".join([*conditions, f"b in [{','.join(map(str, range(limits.max_filter_values)))}]"])
    read = parse(json.dumps({"filter": text}).encode(), wire.SearchRequest)
    assert read.filter == filter_to_wire(text)


@pytest.mark.parametrize(
    "text",
    [
        "a=1or " * 2000,
        "a\\u003d1or " * 2000,
        "a\\u003d1o\\u0072 " * 2000,
        "a is null OR " * 2000,
        "a<1AND " * 2000,
    ],
)
def test_a_long_text_of_a_filter_is_heavy(text: str) -> None:
    """It would be parsed on the event loop, before its client is authorized."""
    assert messages.is_heavy(b'{"filter":"%s"}' % text.encode())


def test_a_question_is_not_heavy() -> None:
    text = "a long text of words and more words for one or two shoes = 日本 <b> " * 30
    for ascii_only in (True, False):
        given = {"query": {"text": text}, "k": 5, "filter": "price < 50 and brand in ['acme', 'zeta']"}
        assert not messages.is_heavy(json.dumps(given, ensure_ascii=ascii_only).encode())


def test_a_long_list_of_what_is_no_message_is_refused_by_its_first_element() -> None:
    content = b'{"queries": [%s]}' % b",".join([b"0"] * 1_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(HttpFailure, match=r"^queries\[0\]: expected a JSON object"):
            parse(content, wire.SearchBatchRequest)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 30_000_000  # the document itself; a tuple for each element would take 130 MB


def test_the_longest_lists_that_a_service_takes_are_read() -> None:
    query = {"history": ["é", "b"] * 500, "history_times": [1, 2.5, "NaN", 4] * 250}
    features = {"tags": {"strings": {"values": ["new"] * 1000}}}
    given = {"queries": [query | {"features": features} for _ in range(256)], "exclude": ["x"] * 1000}
    content = json.dumps(given).encode()
    read = parse(content, wire.SearchBatchRequest)
    assert as_json(read) == as_json(json_format.ParseDict(given, wire.SearchBatchRequest()))
    item = {
        "features": {f"feature {n}": {"text": "x"} for n in range(18)},
        "fields": {f"field {n}": "x" for n in range(4)},
    }
    items = {"items": [{"item": {"id": str(n), **item}} for n in range(1000)]}
    assert len(parse(json.dumps(items).encode(), catalogue_pb2.UpsertRequest).items) == 1000
    ids = {"ids": [str(n) for n in range(300_000)]}
    assert list(parse(json.dumps(ids).encode(), catalogue_pb2.GetRequest).ids) == ids["ids"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a", 1], "query.history: expected string"),
        (["a", None], "query.history: null is not allowed"),
        (["a", "\ud800"], "query.history: unpaired surrogate"),
    ],
)
def test_a_wrong_element_of_a_long_list_is_refused_as_in_a_short_one(
    values: list[Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = json.dumps({"query": {"history": values}}).encode()
    texts = []
    for most in (messages.LARGE_BYTES, 0):
        monkeypatch.setattr(messages, "LARGE_BYTES", most)
        with pytest.raises(HttpFailure) as failure:
            parse(content, wire.SearchRequest)
        texts.append(failure.value.message)
    assert texts[0] == texts[1]
    assert texts[0].startswith(message)


def test_a_wrong_name_of_an_enum_is_refused() -> None:
    with pytest.raises(HttpFailure, match="mode: "):
        parse(b'{"mode": "WRITE_NOTHING"}', catalogue_pb2.UpsertRequest)
