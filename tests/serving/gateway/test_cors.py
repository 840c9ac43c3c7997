"""Pages of other origins: none may call by default, and those of `--cors-origin` may."""

from collections.abc import Iterator

import pytest

from tests.helpers.serving.gateways import Answer, RunningGateway
from tests.helpers.serving.gateways import gateway as run_gateway
from twinspire.serving.gateway.options import ANY_ORIGIN, GatewayBounds, GatewayOptions
from twinspire.serving.server import RetrievalServer

SEARCH = {"query": {"text": "bavuti"}, "k": 3}
SHOP = "https://shop.example"
WANTED = "authorization, content-type, request-timeout, traceparent, x-request-id, x-request-key"


@pytest.fixture(scope="module")
def shared(server: RetrievalServer) -> Iterator[RunningGateway]:
    """A gateway whose answers pages of two origins may read."""
    with run_gateway(server.address, cors_origin=(SHOP, "http://localhost:3000")) as running:
        yield running


def preflight(running: RunningGateway, origin: str, headers: str = WANTED, method: str = "POST") -> Answer:
    """The answer to what a browser asks before it sends a request for a page."""
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": headers,
    }
    return running.ask("/v1/search", headers=asked, verb="OPTIONS")


def allowed(answer: Answer) -> str | None:
    return answer.headers.get("access-control-allow-origin")


def test_no_page_of_another_origin_may_call_by_default(gateway: RunningGateway) -> None:
    refused = preflight(gateway, SHOP)
    assert (refused.status, allowed(refused)) == (405, None)
    assert allowed(gateway.ask("/v1/search", SEARCH, {"Origin": SHOP})) is None


def test_a_page_of_a_named_origin_may_call(shared: RunningGateway) -> None:
    for origin in (SHOP, "http://localhost:3000"):
        permitted = preflight(shared, origin)
        assert (permitted.status, allowed(permitted)) == (200, origin)
        names = permitted.headers["access-control-allow-headers"].lower().split(", ")
        assert {*WANTED.split(", ")} <= {*names}
        assert permitted.headers["access-control-allow-methods"] == "GET, POST"
        answer = shared.ask("/v1/search", SEARCH, {"Origin": origin})
        assert (answer.status, allowed(answer)) == (200, origin)
        assert "origin" in answer.headers["vary"].lower()
        assert "x-request-id" in answer.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in answer.headers


def test_a_page_of_a_named_origin_may_read_errors(shared: RunningGateway) -> None:
    wrong = shared.ask("/v1/search", {"k": -1}, {"Origin": SHOP})
    assert (wrong.status, allowed(wrong)) == (400, SHOP)
    elsewhere = shared.ask("/v1/search", SEARCH, {"Origin": SHOP, "Host": "evil.example"})
    assert (elsewhere.status, allowed(elsewhere)) == (421, SHOP)


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://shop.example", f"{SHOP}.evil.org", "null"]
)
def test_pages_of_other_origins_may_not(shared: RunningGateway, origin: str) -> None:
    refused = preflight(shared, origin)
    assert (refused.status, allowed(refused)) == (400, None)
    assert allowed(shared.ask("/v1/search", SEARCH, {"Origin": origin})) is None


def test_other_methods_and_headers_are_not_permitted(shared: RunningGateway) -> None:
    assert preflight(shared, SHOP, method="DELETE").status == 400
    assert preflight(shared, SHOP, headers="x-other").status == 400


def test_origins_are_named_as_browsers_send_them() -> None:
    for origin in ("https://shop_1.example:80", "http://shop.example:443", "http://[::80]", "http://a:8080"):
        assert GatewayOptions(cors_origin=(origin,)).cors_origin == (origin,)


def test_a_preflight_request_is_checked_as_any_other(server: RetrievalServer) -> None:
    bounds = GatewayBounds(refused_per_second=1)
    with run_gateway(server.address, cors_origin=(SHOP,), bounds=bounds) as running:
        assert preflight(running, SHOP).status == 200
        elsewhere = {"Origin": SHOP, "Access-Control-Request-Method": "POST", "Host": "evil.example"}
        assert running.ask("/v1/search", headers=elsewhere, verb="OPTIONS").status == 421
        for _ in range(20):
            running.ask("/nowhere")
        assert preflight(running, SHOP).status == 429


def test_all_origins_may_be_named_beyond_loopback(server: RetrievalServer) -> None:
    open_to_all = run_gateway(server.address, host="0.0.0.0", insecure=True, cors_origin=(ANY_ORIGIN,))
    with open_to_all as running:
        assert allowed(preflight(running, "https://anyone.example")) == "*"
        assert allowed(running.ask("/v1/search", SEARCH, {"Origin": "https://anyone.example"})) == "*"
