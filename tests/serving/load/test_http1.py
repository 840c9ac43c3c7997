"""The load over HTTP: what it counts, and that it looks at the answers."""

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.helpers.serving.gateways import RunningGateway, decided
from tests.helpers.serving.gateways import gateway as run_gateway
from tests.helpers.serving.http2 import Call, Connection, Status
from tests.load.http1 import HttpPool
from tests.load.load import Requests, closed_loop
from tests.load.workload import Workload, expected_answers
from twinspire.protos.errors import Unavailable
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.server import RetrievalServer

QUERIES = [Query(text=text) for text in ("bavuti", "xelike", "xebara", "bavuti xelike")]


@pytest.fixture(scope="module")
def gateway(server: RetrievalServer) -> Iterator[RunningGateway]:
    with run_gateway(server.address) as running:
        yield running


def test_answers_are_counted_and_compared(gateway: RunningGateway, retriever: Retriever) -> None:
    workload = Workload(QUERIES, 5, expected_answers(retriever, QUERIES, 5))
    address = f"127.0.0.1:{gateway.port}"
    result = closed_loop(address, workload.http_searches(), 4, 0.3, 0.1)
    assert result.offered == len(result.latencies) > 0
    assert result.rps == pytest.approx(len(result.latencies) / 0.3)
    assert (result.errors, workload.different) == ({}, 0)
    assert workload.checked > 0


def test_a_wrong_answer_is_noticed(gateway: RunningGateway) -> None:
    workload = Workload(QUERIES, 1, [[("item-unknown", 0.5)]] * len(QUERIES))
    closed_loop(f"127.0.0.1:{gateway.port}", workload.http_searches(), 1, 0.2, 0.0)
    assert workload.different == workload.checked > 0
    assert "item-unknown" in workload.first


def test_an_error_is_no_answer(gateway: RunningGateway) -> None:
    requests = Requests("/v1/search", [b'{"quer": {}}'], pool=HttpPool)
    result = closed_loop(f"127.0.0.1:{gateway.port}", requests, 2, 0.2, 0.0)
    assert result.rps == 0
    assert next(iter(result.errors)) == "HTTP 400"  # the gateway answers 429 after many invalid requests
    assert "did you mean query?" in result.messages["HTTP 400"]


def test_the_length_of_an_answer_is_read_from_its_head() -> None:
    """In any case, and not from a body that names another."""
    body, ended = b"content-length: 3\r\nCONTENT", list[tuple[Status, object]]()

    def finished(connection: Connection, call: Call, status: Status) -> None:
        ended.append((status, call.parts))

    def send(head: bytes) -> None:
        pool.connection(0).request(b"", b"", Call(0, 0.0, is_kept=True))
        server.sendall(b"HTTP/1.1 200 OK\r\n%s\r\n\r\n%s" % (head, body))
        ended.clear()
        while not ended:
            pool.poll(10.0)

    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        HttpPool(f"127.0.0.1:{listener.getsockname()[1]}", 1, finished) as pool,
    ):
        server, _ = listener.accept()
        with server:
            for name in (b"Content-Length", b"content-length"):
                send(b"%s: %d" % (name, len(body)))
                assert ended == [(Status("OK"), [body])]
            server.sendall(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
            while pool.open_connections():  # the server has answered without a request
                pool.poll(10.0)
        pool.connection(0)
        server, _ = listener.accept()
        with server:
            send(b"Server: x")
        assert "an answer without content-length" in ended[0][0].message


def test_a_connection_that_is_lost_is_an_error_and_is_opened_again() -> None:
    """As over HTTP/2; a server that is gone ends the load."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"

        def close() -> None:
            connection, _ = listener.accept()
            connection.recv(1000)
            connection.close()
            again, _ = listener.accept()
            with again:
                while again.recv(1000):
                    again.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        closing = threading.Thread(target=close)
        closing.start()
        requests = Requests("/v1/search", [b"{}"], pool=HttpPool)
        result = closed_loop(address, requests, 1, 0.3, 0.0)
        closing.join(30)
    assert (result.errors, result.rps > 0) == ({"UNAVAILABLE": 1}, True)
    assert "it was closed" in result.messages["UNAVAILABLE"]
    with pytest.raises(Unavailable, match="Connection refused"):
        closed_loop(address, requests, 1, 1.0)


def test_answers_in_parts_are_put_together() -> None:
    with decided() as (_, address), run_gateway(address) as running:
        # 300 KiB come in more than one read.
        body = b'{"query": {"text": "%s"}}' % (b"a" * 300_000)
        requests = Requests("/v1/search", [body], pool=HttpPool)
        result = closed_loop(f"127.0.0.1:{running.port}", requests, 1, 0.3, 0.0)
        assert (result.errors, result.rps > 0) == ({}, True)
