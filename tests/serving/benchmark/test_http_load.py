"""The load over HTTP: what it counts, and that it looks at the answers."""

import socket
import sys
import threading
import types
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from protos.errors import Unavailable
from serving.benchmark import http_reference
from serving.benchmark.http_load import HttpClient, http_closed_loop
from serving.benchmark.load import Requests
from serving.benchmark.workload import Workload, expected_answers
from serving.gateway.connections import Protocol
from serving.gateway.options import GatewayOptions
from serving.gateway.process import make_server
from serving.retrieval.query import Query
from serving.retrieval.retriever import Retriever
from serving.server import RetrievalServer
from tests.helpers.serving.gateways import RunningGateway, decided
from tests.helpers.serving.gateways import gateway as run_gateway
from tests.helpers.waiting import wait_until

QUERIES = [Query(text=text) for text in ("bavuti", "xelike", "xebara", "bavuti xelike")]


@pytest.fixture(scope="module")
def gateway(server: RetrievalServer) -> Iterator[RunningGateway]:
    with run_gateway(server.address) as running:
        yield running


def test_answers_are_counted_and_compared(gateway: RunningGateway, retriever: Retriever) -> None:
    workload = Workload(QUERIES, 5, expected_answers(retriever, QUERIES, 5))
    address = f"127.0.0.1:{gateway.port}"
    result = http_closed_loop(address, workload.http_searches(), 4, 0.3, 0.1)
    assert result.offered == len(result.latencies) > 0
    assert result.rps == pytest.approx(len(result.latencies) / 0.3)
    assert (result.errors, workload.different) == ({}, 0)
    assert workload.checked > 0


def test_a_wrong_answer_is_noticed(gateway: RunningGateway) -> None:
    workload = Workload(QUERIES, 1, [[("item-unknown", 0.5)]] * len(QUERIES))
    http_closed_loop(f"127.0.0.1:{gateway.port}", workload.http_searches(), 1, 0.2, 0.0)
    assert workload.different == workload.checked > 0
    assert "item-unknown" in workload.first


def test_an_error_is_no_answer(gateway: RunningGateway) -> None:
    requests = Requests("/v1/search", [b'{"quer": {}}'])
    result = http_closed_loop(f"127.0.0.1:{gateway.port}", requests, 2, 0.2, 0.0)
    assert (result.rps, list(result.errors)) == (0, ["HTTP 400"])
    assert "did you mean query?" in result.messages["HTTP 400"]


def test_the_reference_has_the_parser_and_the_event_loop_of_the_gateway(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As where it is installed: uvicorn would choose it by itself.
    monkeypatch.setitem(sys.modules, "httptools", types.ModuleType("httptools"))
    config = http_reference.configuration(FastAPI())
    config.load()
    assert config.http_protocol_class is H11Protocol
    assert issubclass(Protocol, config.http_protocol_class)
    gateway = make_server(GatewayOptions(), lambda: None).config
    assert config.loop == gateway.loop == "asyncio"


def test_the_length_of_an_answer_is_read_from_its_head() -> None:
    """In any case, and not from a body that names another."""
    body = b"content-length: 3\r\nCONTENT"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = HttpClient("127.0.0.1", listener.getsockname()[1], [b"?"], iter([(0, False)]))
        server, _ = listener.accept()
        with client.socket, server:
            for name in (b"Content-Length", b"content-length"):
                server.sendall(b"HTTP/1.1 200 OK\r\n%s: %d\r\n\r\n%s" % (name, len(body), body))
                assert wait_until(client.receive) == (200, body)
            server.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + body)
            with pytest.raises(Unavailable, match="an answer without content-length"):
                wait_until(client.receive)


def test_a_server_that_goes_away_ends_the_load() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"

        def close() -> None:
            connection, _ = listener.accept()
            connection.recv(1000)
            connection.close()

        closing = threading.Thread(target=close)
        closing.start()
        with pytest.raises(Unavailable, match="closed a connection"):
            http_closed_loop(address, Requests("/v1/search", [b"{}"]), 1, 1.0)
        closing.join(30)
    with pytest.raises(Unavailable, match="Connection refused"):
        http_closed_loop(address, Requests("/v1/search", [b"{}"]), 1, 1.0)


def test_answers_in_parts_are_put_together() -> None:
    with decided() as (_, address), run_gateway(address) as running:
        # 300 KiB come in more than one read.
        body = b'{"query": {"text": "%s"}}' % (b"a" * 300_000)
        result = http_closed_loop(f"127.0.0.1:{running.port}", Requests("/v1/search", [body]), 1, 0.3, 0.0)
        assert (result.errors, result.rps > 0) == ({}, True)
