"""The gateway's metrics, as Prometheus reads them."""

from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.helpers.serving import prometheus
from tests.helpers.serving.gateways import START, RunningGateway, scraped
from tests.helpers.serving.gateways import gateway as run_gateway
from tests.helpers.waiting import wait_until
from twinspire.serving.server import RetrievalServer

SEARCH = {"query": {"text": "bavuti"}, "k": 3}
REQUESTS = "twinspire_gateway_requests_total"


@pytest.fixture
def counted(server: RetrievalServer) -> Iterator[RunningGateway]:
    """A gateway that has answered nothing."""
    with run_gateway(server.address) as running:
        yield running


def test_requests_are_counted_by_path_and_status(counted: RunningGateway) -> None:
    for _ in range(3):
        assert counted.ask("/v1/search", SEARCH).status == 200
    assert counted.ask("/v1/search", {"query": {}}).status == 400
    assert counted.ask("/v1/search").status == 405
    assert counted.ask("/").status == 200
    for name in ("a", "b"):
        assert counted.ask(f"/v1/{name}").status == 404
    wait_until(lambda: counted.scrape().get((REQUESTS, "other", "404")) == 2)
    found = counted.scrape()
    assert {key[1:]: value for key, value in found.items() if key[0] == REQUESTS} == {
        ("/v1/search", "200"): 3,
        ("/v1/search", "400"): 1,
        ("/v1/search", "405"): 1,
        ("other", "200"): 1,
        ("other", "404"): 2,
    }
    seconds = "twinspire_gateway_request_seconds"
    assert found[f"{seconds}_count", "/v1/search"] == 5
    assert 0 < found[f"{seconds}_sum", "/v1/search"] < 60
    assert found["twinspire_gateway_in_progress",] == 0
    assert found["twinspire_gateway_pending_body_bytes",] == 0


def test_the_dashboard_knows_all_metrics_and_their_labels(counted: RunningGateway) -> None:
    assert counted.ask("/v1/search", SEARCH).status == 200
    families = [*text_string_to_metric_families(counted.ask("/metrics").body.decode())]
    found = {sample.name: {*sample.labels} for family in families for sample in family.samples}
    found = {name: labels for name, labels in found.items() if not name.endswith("_created")}
    assert found == prometheus.GATEWAY_METRICS


@pytest.mark.exhaustive
def test_open_connections_and_requests_in_progress_are_shown(counted: RunningGateway) -> None:
    with counted.send(START + b'Content-Length: 100\r\n\r\n{"query"'):
        wait_until(lambda: counted.scrape()["twinspire_gateway_pending_body_bytes",] == 8)
        found = counted.scrape()
        assert found["twinspire_gateway_in_progress",] == 0
        assert found["twinspire_gateway_connections",] == 1
    wait_until(lambda: counted.scrape()["twinspire_gateway_connections",] == 0)
    wait_until(lambda: counted.scrape()["twinspire_gateway_pending_body_bytes",] == 0)
    assert counted.scrape()[REQUESTS, "/v1/search", "499"] == 1  # its client has gone


def test_metrics_are_for_clients_that_may_ask_for_info(guarded: tuple[RunningGateway, str]) -> None:
    running, token = guarded
    assert running.ask("/metrics").status == 401
    shown = running.ask("/metrics", headers={"Authorization": f"Bearer {token}"})
    assert shown.status == 200
    assert shown.headers["content-type"].startswith("text/plain; version=")
    assert ("twinspire_gateway_connections",) in scraped(shown.body.decode())
