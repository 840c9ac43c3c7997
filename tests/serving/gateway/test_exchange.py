"""Bodies: they have a time, and all together have a bound."""

import http.client
import json
import time

import pytest

from tests.helpers.serving.gateways import decided_gateway, read
from tests.helpers.waiting import wait_until
from twinspire.protos.errors import InvalidInput
from twinspire.serving.gateway.failures import HttpFailure
from twinspire.serving.gateway.fairness import FairShare
from twinspire.serving.gateway.options import GatewayBounds, GatewayOptions

SEARCH = json.dumps({"query": {"text": "a" * 500}}).encode()


def begin(connection: http.client.HTTPConnection, body: bytes, count: int) -> None:
    """Send a search without all but the first bytes of its body."""
    connection.putrequest("POST", "/v1/search")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body[:count])


def test_the_time_of_a_call_begins_when_its_body_is_whole() -> None:
    content = b'{"query": {"text": "a"}}'
    with decided_gateway(timeout=0.9) as (service, running), running.connect() as connection:
        begin(connection, content, 5)
        wait_until(lambda: running.server.gateway.pending.held == 5)
        time.sleep(1.5)
        connection.send(content[5:])
        assert service.seen.get(timeout=30)["seconds"] > 0


def test_bodies_that_do_not_end_have_a_bound_together() -> None:
    bounds = GatewayBounds(max_body_bytes=1000, pending_body_bytes=1600)
    with decided_gateway(bounds=bounds) as (_, running):
        with running.connect() as first, running.connect() as second:
            for each in (first, second):
                begin(each, SEARCH, 400)
            wait_until(lambda: running.server.gateway.pending.held == 800)  # as many are for other clients
            with running.connect() as third:
                begin(third, SEARCH, 400)
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
    pending = FairShare(10)
    with pytest.raises(HttpFailure), pending.hold("a", 4), pending.hold("a", 3):
        pass
    assert pending.held == 0
    with pytest.raises(InvalidInput, match="pending_body_bytes: expected at least 4194304"):
        GatewayOptions(bounds=GatewayBounds(pending_body_bytes=1000))
