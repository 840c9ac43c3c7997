"""The description of the API: every RPC, every field, and nothing that is not so."""

import json
import random
from typing import Any

import pytest

from tests.helpers.serving.gateways import RunningGateway
from tests.helpers.serving.random_messages import DESCRIPTORS, random_message
from twinspire.protos import catalogue_pb2, events_pb2, retrieval_pb2
from twinspire.serving.gateway.app import OPERATIONS
from twinspire.serving.gateway.messages import parse, to_json
from twinspire.serving.gateway.openapi import comments

SERVICES = (
    retrieval_pb2.DESCRIPTOR.services_by_name["Retrieval"],
    catalogue_pb2.DESCRIPTOR.services_by_name["Catalogue"],
    events_pb2.DESCRIPTOR.services_by_name["Events"],
)


@pytest.fixture(scope="module")
def described(gateway: RunningGateway) -> Any:
    answer = gateway.ask("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    return answer.document


def misfit(given: Any, schema: Any, schemas: Any, place: str = "$") -> str:
    """Where a document does not fit a schema; empty if it fits."""
    if "$ref" in schema:
        return misfit(given, schemas[schema["$ref"].rpartition("/")[2]], schemas, place)
    if "anyOf" in schema:
        return min((misfit(given, each, schemas, place) for each in schema["anyOf"]), key=len)
    types: dict[str, Any] = {
        "object": dict,
        "array": list,
        "string": str,
        "boolean": bool,
        "integer": int,
        "number": (int, float),
    }
    if not isinstance(given, types[schema["type"]]) or ("enum" in schema and given not in schema["enum"]):
        return f"{place}: {given!r} is no {schema}"
    if isinstance(given, list):
        return next(
            filter(None, (misfit(each, schema["items"], schemas, f"{place}[]") for each in given)), ""
        )
    if isinstance(given, dict) and {"properties", "additionalProperties"} & {*schema}:
        if missing := set(schema.get("required", ())) - set(given):
            return f"{place}: misses {missing}"
        for name, value in given.items():
            inner = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
            if not inner:
                return f"{place}: has {name}"
            if wrong := misfit(value, inner, schemas, f"{place}.{name}"):
                return wrong
    return ""


def test_every_rpc_has_a_path(described: Any) -> None:
    called = {each.method.descriptor.full_name for each in OPERATIONS if each.method is not None}
    offered = {
        method.full_name
        for service in SERVICES
        for method in service.methods
        if not (method.client_streaming or method.server_streaming)
    }
    assert called == offered
    assert set(described["paths"]) == {each.path for each in OPERATIONS}


def test_every_path_says_what_it_does(described: Any) -> None:
    names = []
    for verbs in described["paths"].values():
        for said in verbs.values():
            assert said["summary"]
            assert list(said["responses"]["200"]["content"])
            names.append(said["operationId"])
    assert len(set(names)) == len(names)


def test_a_timeout_is_offered_where_one_is_obeyed(gateway: RunningGateway, described: Any) -> None:
    """Each path is asked with a timeout that is none; who reads it refuses it."""
    for path, verbs in described["paths"].items():
        for verb, said in verbs.items():
            content = said.get("requestBody", {}).get("content", {"application/json": {}})
            ((kind, body),) = content.items()
            sent = None if verb == "get" else json.dumps(body["example"]).encode()
            headers = {"Request-Timeout": "soon", "content-type": kind}
            answer = gateway.ask(path, sent, headers, verb.upper())
            is_read = answer.status == 400 and "Request-Timeout" in answer.error[2]
            is_offered = "Request-Timeout" in [each["name"] for each in said.get("parameters", ())]
            if path != "/v1/compare":  # there is nothing to compare with
                assert is_offered == is_read, path


def test_every_reference_leads_somewhere(described: Any) -> None:
    text = json.dumps(described)
    for name in {each.partition('"')[0] for each in text.split("#/components/schemas/")[1:]}:
        assert name in described["components"]["schemas"]


@pytest.mark.parametrize(
    "descriptor",
    [each for each in DESCRIPTORS if not each.name.startswith("Changes")],  # which is no call of the gateway
    ids=lambda descriptor: descriptor.name,
)
def test_a_message_fits_its_schema(descriptor: Any, described: Any) -> None:
    schemas = described["components"]["schemas"]
    draw = random.Random(descriptor.full_name)
    for _ in range(10):
        written = json.loads(to_json(random_message(descriptor, draw)))
        text = json.dumps(written)
        if "Infinity" in text or "NaN" in text:
            continue  # strings in protobuf's mapping, where the schema says number
        assert misfit(written, schemas[descriptor.name], schemas) == ""
        assert misfit({**written, "of_nobody": 1}, schemas[descriptor.name], schemas)


def test_the_examples_are_requests(described: Any) -> None:
    for each in OPERATIONS:
        method = each.request_of or each.method
        if each.verb == "POST" and method is not None:
            assert each.example
            parse(json.dumps(each.example).encode(), method.request)


def test_the_comments_are_those_of_the_proto_files() -> None:
    found = comments()
    assert found["retrieval.v1.Retrieval.Search"] == "The k items nearest to one query."
    assert found["retrieval.v1.Filter.any"] == "Passes where one of them passes; at least one."
    assert found["retrieval.v1.ServedBundle.role"] == "`champion` or `canary`."
    assert found["retrieval.v1.ItemWrite.expected_sequence"].startswith("Write only if this is the sequence")
    assert found["retrieval.v1.Plan.PLAN_EMPTY"].startswith("Nothing was searched")
    for service in SERVICES:
        for method in service.methods:
            assert found[method.full_name].endswith(".")
