"""The load's own HTTP/2: against grpcio's servers, and against a peer that does what those seldom do."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import grpc
import pytest

from tests.helpers.ports import held_port
from tests.helpers.serving import http2
from tests.helpers.serving.grpc_servers import grpc_server
from tests.helpers.serving.http2 import WINDOW, Call, ConnectionPool, Status
from tests.load.load import Requests, closed_loop
from twinspire.protos.errors import InvalidInput, Unavailable

PATH = "/test.Test/Call"
ONE = Requests(PATH, [http2.message(b"a")])
PATIENCE = 30.0


def serving(behaviour: Callable[..., Any]) -> AbstractContextManager[str]:
    """A server of one method whose messages are bytes; its address."""
    call = grpc.unary_unary_rpc_method_handler(behaviour)
    handlers = (grpc.method_handlers_generic_handler("test.Test", {"Call": call}),)
    unbounded = [("grpc.max_receive_message_length", -1)]
    return grpc_server(lambda server: server.add_generic_rpc_handlers(handlers), options=unbounded)


def call(address: str, message: bytes) -> tuple[Status, bytes]:
    """One call: how it ended, and what was answered."""
    ended: list[Status] = []
    asked = Call(0, 0.0, is_kept=True)
    with ConnectionPool(address, 1, lambda connection, call, status: ended.append(status)) as pool:
        connection = pool.connection(0)
        head = pool.head(PATH, 60_000)
        connection.request(head, http2.message(message), asked)
        connection.flush()
        until = time.monotonic() + PATIENCE
        while not ended and time.monotonic() < until:
            pool.poll(0.1)
    assert ended, "no answer"
    return ended[0], b"".join(asked.parts or ())[5:]


@pytest.mark.exhaustive
@pytest.mark.parametrize("code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL])
def test_a_refusal_is_no_success(code: grpc.StatusCode) -> None:
    def refuse(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(code, "too much: 100 %, fünf")  # gRPC sends headers that are trailers too

    with serving(refuse) as address:
        assert call(address, b"a") == (Status(code.name, "too much: 100 %, fünf"), b"")
        measured = closed_loop(address, ONE, 2, 0.2, 0.0)
    assert measured.rps == 0
    assert measured.errors == {code.name: measured.offered}
    assert measured.messages == {code.name: "too much: 100 %, fünf"}
    assert measured.percentile_us(50) != measured.percentile_us(50)  # there is none


def test_large_messages_pass_in_both_directions() -> None:
    size = 2 * WINDOW + 1
    with serving(lambda request, context: request) as address:
        status, answer = call(address, b"x" * size)
    assert (status.code, len(answer)) == ("OK", size)


def test_load_stays_on_this_machine() -> None:
    with pytest.raises(InvalidInput, match="is not this machine"):
        ConnectionPool("192.0.2.1:50051", 1, lambda *each: None)
    with held_port() as port, pytest.raises(Unavailable, match="cannot connect"):
        ConnectionPool(f"127.0.0.1:{port}", 1, lambda *each: None)
