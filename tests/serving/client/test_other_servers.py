"""Answers of a server that is none of ours, or is too talkative: one clear error, and no traceback."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from operator import methodcaller
from typing import Any

import grpc
import pytest

from tests.helpers.serving.grpc_servers import grpc_server
from tests.serving.cli.test_commands import Capture, failure
from tests.serving.client.ways import WAYS, asynchronous, blocking, streamed
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.errors import InvalidInput, TwinspireError, Unavailable
from twinspire.serving.client import Item, RetrievalClient, protocol

GARBAGE = b"\xff\xfe\x01garbage"


class Constant(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # at runtime it takes none
    """Gives the same bytes for each call."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        if details.method.endswith(("SearchStream", "Changes")):
            return grpc.stream_stream_rpc_method_handler(lambda requests, _: iter([self._answer]))
        return grpc.unary_unary_rpc_method_handler(lambda request, _: self._answer)


class NoMethods(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Knows no call."""

    def service(self, details: grpc.HandlerCallDetails) -> None:
        return None


def answering(answer: bytes, *handlers: Any) -> contextlib.AbstractContextManager[str]:
    """The address of a server of gRPC that gives the same bytes for each call."""
    given = handlers or (Constant(answer),)
    return grpc_server(lambda server: server.add_generic_rpc_handlers(given))


@contextlib.contextmanager
def raw(answer: bytes) -> Iterator[str]:
    """The address of a server that sends bytes to each connection, and closes it."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = listener.accept()[0]
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(1)
                    if answer:
                        connection.recv(1 << 16)
                    connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def said(capsys: Capture, *arguments: str) -> str:
    """The error of a command that fails, without its advice."""
    first, *advice = failure(capsys, *arguments).splitlines()
    assert first.startswith("error: ")
    assert len(advice) <= 1
    return first


@pytest.mark.parametrize("answer", [b"\x93" * 4000, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b""])
def test_what_is_no_grpc(capsys: Capture, answer: bytes) -> None:
    with raw(answer) as address:
        assert said(capsys, "status", "--address", address).startswith(f"error: {address}: ")


@pytest.mark.parametrize("command", [["status"], ["items", "get", "a"]])
def test_answers_that_are_no_messages(capsys: Capture, command: list[str]) -> None:
    with answering(GARBAGE) as address:
        error = said(capsys, *command, "--address", address)
    assert "the response is not a message of this service" in error


@pytest.mark.parametrize(
    ("use", "text"),
    [
        (methodcaller("search", "a"), "is not a message of this service"),
        (methodcaller("wait_ready", 0.1), r"not serving after 0\.1 s"),
    ],
    ids=["search", "wait_ready"],
)
def test_answers_that_are_no_messages_for_asyncio(use: Callable[[Any], Any], text: str) -> None:
    with answering(GARBAGE) as address, pytest.raises(Unavailable, match=text):
        asynchronous(address, use)


@pytest.mark.parametrize("manifest", ["", "[1]", "{}", "7", '{"schema": 5}', '{"schema": {"query": [1]}}'])
def test_a_manifest_that_is_none(capsys: Capture, manifest: str) -> None:
    with answering(wire.InfoResponse(manifest_json=manifest).SerializeToString()) as address:
        assert "manifest_json: " in said(capsys, "status", "--address", address)


def test_a_service_of_another_kind(capsys: Capture) -> None:
    with answering(b"", NoMethods()) as address:
        assert "Is it the address of another service" in said(capsys, "status", "--address", address)


def test_an_answer_that_has_not_one_result_for_each_query() -> None:
    calls = [
        methodcaller("search_batch", ["a", "b"]),
        methodcaller("encode", ["a"]),
        methodcaller("encode_items", [{"text": "a"}]),
        methodcaller("score", "a", ["b"]),
        methodcaller("upsert", [Item("a")]),
        methodcaller("delete", ["a"]),
        methodcaller("get", ["a"]),
    ]
    with answering(b"") as address, RetrievalClient(address, retries=False) as client:
        for call in calls:
            with pytest.raises(Unavailable, match=r"gave 0 results where [12] were asked for"):
                call(client)
    vectors = [wire.Vector(values=[1.0]), wire.Vector(values=[1.0, 2.0])]
    answer = wire.EncodeResponse(vectors=vectors).SerializeToString()
    with answering(answer) as address, pytest.raises(Unavailable, match="vectors of different lengths"):
        blocking(address, methodcaller("encode", ["a", "b"]))


def test_an_answer_above_the_bound_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    hit = wire.Hit(id="a", fields={"text": "x" * (5 << 20)})
    answer = wire.SearchResponse(hits=[hit]).SerializeToString()
    search = methodcaller("search", "a")
    with answering(answer) as address:
        assert [way(address, search).hits[0].id for way in WAYS] == ["a", "a"]
        monkeypatch.setattr(protocol, "MAX_ANSWER_BYTES", 1 << 20)
        match = rf"answer: larger than this client takes: {len(answer)} "
        for way in WAYS:
            with pytest.raises(InvalidInput, match=match):
                way(address, search)
        with pytest.raises(InvalidInput, match=match):
            blocking(address, lambda client: streamed(client.search_stream(["a"])))


def test_what_cannot_be_sent_is_named() -> None:
    with RetrievalClient("127.0.0.1:1") as client:
        with pytest.raises(InvalidInput, match="request_id: expected Unicode"):
            client.upsert([Item("a")], request_id="\ud800")
        with pytest.raises(InvalidInput, match="request_id: expected Unicode"):
            client.delete(["a"], request_id="\ud800")
        with pytest.raises(InvalidInput, match="features: expected a number that a double can hold"):
            client.upsert([Item("a", {"price": 10**400})])
    for address in ("\ud800:1", "a\x00b:1", "a\nb:1"):
        with pytest.raises(TwinspireError, match="address: expected host:port"):
            RetrievalClient(address)
