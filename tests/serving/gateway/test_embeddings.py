"""Vectors as clients of OpenAI and of Text Embeddings Inference ask for them."""

import base64
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.altered import altered
from tests.helpers.serving.gateways import RunningGateway
from tests.helpers.serving.gateways import gateway as run_gateway
from twinspire.serving.gateway.embeddings import Asked, _item_text
from twinspire.serving.gateway.options import GatewayBounds
from twinspire.serving.rollout.loaded_bundle import LoadedBundle
from twinspire.serving.server import RetrievalServer

TEXTS = ["bavuti xelike", "日本 ß"]


@pytest.fixture(scope="module")
def both(plain: Path) -> Iterator[RunningGateway]:
    """A gateway of a service that offers the item tower, too."""
    with (
        RetrievalServer(LoadedBundle.load(plain, item_tower=True)) as server,
        run_gateway(server.address) as running,
    ):
        yield running


def encoded(running: RunningGateway, body: Any) -> list[Any]:
    return [each["values"] for each in running.ask("/v1/encode", body).document["vectors"]]


def test_a_list_of_texts_is_answered_as_openai_does(both: RunningGateway) -> None:
    answer = both.ask("/v1/embeddings", {"input": TEXTS, "model": "query"}).document
    vectors = encoded(both, {"queries": [{"text": text} for text in TEXTS]})
    assert answer == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": n, "embedding": vector} for n, vector in enumerate(vectors)
        ],
        "model": "query",
        "usage": {"prompt_tokens": 4, "total_tokens": 4},
    }


def test_one_text_and_no_model_are_the_query_tower(both: RunningGateway) -> None:
    (only,) = both.ask("/v1/embeddings", {"input": TEXTS[0]}).document["data"]
    assert only["embedding"] == encoded(both, {"queries": [{"text": TEXTS[0]}]})[0]


def test_the_item_tower_reads_texts_where_it_is_offered(both: RunningGateway) -> None:
    answer = both.ask("/v1/embeddings", {"input": TEXTS, "model": "item"}).document
    items = [{"features": {"text": {"text": text}}} for text in TEXTS]
    assert [each["embedding"] for each in answer["data"]] == encoded(both, {"items": items})
    assert both.ask("/embed", {"inputs": TEXTS, "model": "item"}).document == encoded(both, {"items": items})


def test_base64_holds_the_same_numbers(both: RunningGateway) -> None:
    asked = {"input": TEXTS, "model": "query"}
    plain, packed = (
        [each["embedding"] for each in both.ask("/v1/embeddings", {**asked, **more}).document["data"]]
        for more in ({}, {"encoding_format": "base64"})
    )
    for numbers, text in zip(plain, packed, strict=True):
        np.testing.assert_array_equal(np.frombuffer(base64.b64decode(text), "<f4"), np.float32(numbers))


def test_text_embeddings_inference_gets_bare_lists(gateway: RunningGateway) -> None:
    vectors = encoded(gateway, {"queries": [{"text": text} for text in TEXTS]})
    assert gateway.ask("/embed", {"inputs": TEXTS}).document == vectors
    alone = encoded(gateway, {"queries": [{"text": TEXTS[1]}]})
    assert gateway.ask("/embed", {"inputs": TEXTS[1]}).document == alone


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/v1/embeddings", {}, (400, "INVALID_ARGUMENT", "input: expected a text, or a list of texts")),
        ("/v1/embeddings", {"input": []}, (400, "INVALID_ARGUMENT", "input: expected a text")),
        (
            "/v1/embeddings",
            {"input": [[1, 2]]},
            (400, "INVALID_ARGUMENT", "input: expected a text"),
        ),
        ("/v1/embeddings", [], (400, "INVALID_ARGUMENT", "body: expected a JSON object")),
        ("/v1/embeddings", b"{", (400, "INVALID_ARGUMENT", "body: expected JSON: ")),
        (
            "/v1/embeddings",
            {"input": "a", "model": "text-embedding-3-small"},
            (404, "NOT_FOUND", "model: expected one of query, item"),
        ),
        ("/v1/embeddings", {"input": "a", "model": 3}, (404, "NOT_FOUND", "model: expected one of")),
        (
            "/v1/embeddings",
            {"input": "a", "encoding_format": "int8"},
            (400, "INVALID_ARGUMENT", "encoding_format: expected one of float, base64"),
        ),
        (
            "/v1/embeddings",
            {"input": "a", "dimensions": 3},
            (
                400,
                "INVALID_ARGUMENT",
                "dimensions: unknown field; expected one of input",
            ),
        ),
        ("/embed", {"inputs": "a", "truncate": True}, (400, "INVALID_ARGUMENT", "truncate: unknown field")),
        (
            "/embed",
            {"inputs": "a" * 10_001},
            (400, "INVALID_ARGUMENT", "queries[0].text: expected at"),
        ),
        ("/embed", {"inputs": ["a"] * 257}, (400, "INVALID_ARGUMENT", "queries: expected 1 to 256")),
        (
            "/embed",
            {"inputs": "a", "model": "item"},
            (400, "INVALID_ARGUMENT", "items: this service does"),
        ),
        (
            "/embed",
            b'{"inputs": "\\ud800"}',
            (400, "INVALID_ARGUMENT", "inputs: expected Unicode"),
        ),
        ("/embed", None, (405, "UNIMPLEMENTED", "GET /embed: expected POST")),
    ],
)
def test_what_cannot_be_answered_is_refused(
    gateway: RunningGateway, path: str, body: Any, expected: tuple[int, str, str]
) -> None:
    status, code, message = gateway.ask(path, body).error
    assert (status, code) == expected[:2]
    assert message.startswith(expected[2]), message


def test_a_tower_of_several_texts_or_none_is_refused(plain: Path, tmp_path: Path) -> None:
    manifest = LoadedBundle.load(plain).manifest
    names = {"title": manifest.schema.item["text"], "body": manifest.schema.item["text"]}
    several = altered(plain, tmp_path, lambda draft: None, schema=replace(manifest.schema, item=names))
    with RetrievalServer(LoadedBundle.load(several)) as server, run_gateway(server.address) as running:
        refused = running.ask("/embed", {"inputs": "a", "model": "item"})
    assert refused.error[::2] == (400, "model: the item tower reads 2 texts, not one; use /v1/encode")


def test_a_query_tower_without_texts_is_refused_by_the_service(watched: Path) -> None:
    with RetrievalServer(LoadedBundle.load(watched)) as server, run_gateway(server.address) as running:
        assert running.ask("/embed", {"inputs": "a"}).error[:2] == (400, "INVALID_ARGUMENT")


def test_texts_are_bounded_before_a_message_is_made_of_them(
    both: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []
    build = Asked.message

    def message(asked: Asked, info: Any) -> Any:
        threads.append(threading.current_thread())
        return build(asked, info)

    monkeypatch.setattr(Asked, "message", message)
    for model in ("query", "item"):
        refused = both.ask("/embed", {"inputs": [""] * 900_000, "model": model}).error
        assert refused[0] == 413
        assert refused[2].startswith("body: expected at most 32768 objects, fields, ")
        assert threads == []
        assert both.ask("/embed", {"inputs": ["a"] * 16_384, "model": model}).error[0] == 400
        assert threads.pop().name.startswith("heavy-work")
        assert both.ask("/embed", {"inputs": ["a"] * 9, "model": model}).status == 200
        assert threads.pop() is both.thread


def test_the_manifest_of_a_bundle_is_parsed_once(both: RunningGateway) -> None:
    _item_text.cache_clear()
    for _ in range(3):
        assert both.ask("/embed", {"inputs": "a", "model": "item"}).status == 200
    assert _item_text.cache_info().misses == 1


def test_bodies_are_bounded(server: RetrievalServer) -> None:
    bounds = GatewayBounds(max_body_bytes=1000, pending_body_bytes=1000)
    with run_gateway(server.address, bounds=bounds) as running:
        assert running.ask("/embed", {"inputs": "a" * 1000}).status == 413
        assert running.ask("/embed", {"inputs": "a" * 500}).status == 200
