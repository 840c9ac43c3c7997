"""Bodies and lines: each byte is looked at once, and all together have a bound."""

import asyncio
import json
import time
from typing import Any

import pytest
from starlette.requests import Request

from protos.errors import InvalidInput
from serving.gateway.exchange import PendingBytes, body, lines
from serving.gateway.failures import TOO_SLOW, HttpFailure
from serving.gateway.options import GatewayBounds, GatewayOptions
from tests.helpers.serving.gateways import NDJSON, decided, read
from tests.helpers.serving.gateways import gateway as run_gateway
from tests.helpers.waiting import wait_until

SEARCH = json.dumps({"query": {"text": "a" * 500}}).encode()


async def allow() -> None:
    """Let every client send its body."""


def split(parts: list[bytes], most: int = 1 << 30) -> list[bytes]:
    """The lines of a body that comes in parts."""
    left = list(parts)

    async def receive() -> Any:
        part = left.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(left)}

    async def gather() -> list[bytes]:
        return [line async for line in lines(receive, "", most, PendingBytes(1 << 30), lambda: 60.0)]

    return asyncio.run(gather())


def test_lines_are_the_same_in_whatever_parts_they_come() -> None:
    whole = b"\nab\n \n\ncde\r\nf\n\nghi"
    expected = [b"ab", b"cde\r", b"f", b"ghi"]
    for size in range(1, len(whole) + 1):
        assert split([whole[n : n + size] for n in range(0, len(whole), size)]) == expected
    assert split([whole, b""]) == expected
    assert split([whole + b"\n"]) == expected


def test_a_line_in_many_small_parts_is_read_in_one_pass() -> None:
    """4 MB in parts of 50 bytes: to copy the line for each part would be 160 GB."""
    began = time.process_time()
    (line,) = split([b"x" * 50] * 80_000)
    assert len(line) == 4_000_000
    assert time.process_time() - began < 10


def test_the_time_of_a_body_begins_before_its_first_part() -> None:
    parts = [b"{", b"}"]

    async def receive() -> Any:
        if len(parts) == 2:
            time.sleep(0.6)  # without a pause in which the loop could end the wait
        else:
            await asyncio.sleep(0.2)
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def read_body() -> None:
        request = Request({"type": "http", "headers": []}, receive)
        await body(request, 100, 0.5, PendingBytes(100), allow)

    with pytest.raises(HttpFailure) as late:
        asyncio.run(read_body())
    assert late.value.http == TOO_SLOW


@pytest.mark.parametrize("path", ["/v1/search", "/v1/items:changes"])
def test_the_time_of_a_call_begins_when_its_body_is_whole(path: str) -> None:
    content = b'{"query": {"text": "a"}}' if path == "/v1/search" else b'{"after": "0"}'
    with (
        decided() as (service, address),
        run_gateway(address, timeout=0.9) as running,
        running.connect() as connection,
    ):
        connection.putrequest("POST", path)
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(len(content)))
        connection.endheaders(content[:5])
        wait_until(lambda: running.server.gateway.pending.held == 5)
        time.sleep(1.5)
        connection.send(content[5:])
        assert service.seen.get(timeout=30)["seconds"] > 0


def test_bodies_that_do_not_end_have_a_bound_together() -> None:
    bounds = GatewayBounds(max_body_bytes=1000, pending_body_bytes=1600)
    begun = SEARCH[:400]
    with decided() as (_, address), run_gateway(address, bounds=bounds) as running:
        with running.connect() as first, running.connect() as second:
            for each, path, kind in (
                (first, "/v1/search", "application/json"),
                (second, "/v1/search:stream", NDJSON["content-type"]),
            ):
                each.putrequest("POST", path)
                each.putheader("Content-Type", kind)
                each.putheader("Content-Length", str(len(SEARCH)))
                each.endheaders(begun)
            wait_until(
                lambda: running.server.gateway.pending.held == 800
            )  # and as many are for other clients
            with running.connect() as third:
                third.putrequest("POST", "/v1/search")
                third.putheader("Content-Type", "application/json")
                third.putheader("Content-Length", str(len(SEARCH)))
                third.endheaders(begun)
                refused = read(third)
            assert refused.error[:2] == (503, "UNAVAILABLE")
            assert "has its share" in refused.error[2]
            assert "800 of 1600 (--pending-body-bytes)" in refused.error[2]
            assert (refused.headers["retry-after"], refused.headers["connection"]) == ("1", "close")
            for each in (first, second):
                each.send(SEARCH[400:])
                assert read(each).status == 200
        assert running.server.gateway.pending.held == 0
        assert running.ask("/v1/search", SEARCH).status == 200


def test_a_body_that_is_given_up_is_counted_no_more() -> None:
    pending = PendingBytes(10)
    with pytest.raises(HttpFailure), pending.keep("a", 4), pending.keep("a", 3):
        pass
    assert pending.held == 0
    with pytest.raises(InvalidInput, match="pending_body_bytes: expected at least 4194304"):
        GatewayOptions(bounds=GatewayBounds(pending_body_bytes=1000))
