"""The gateway's metrics, as Prometheus reads them."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.helpers.serving import prometheus
from tests.helpers.serving.gateways import RunningGateway, is_ended, scraped
from tests.helpers.serving.gateways import gateway as run_gateway
from tests.helpers.waiting import wait_until
from twinspire.serving.gateway import http1
from twinspire.serving.metrics_server import serve_registry
from twinspire.serving.server import RetrievalServer

SEARCH = {"query": {"text": "bavuti"}, "k": 3}
REQUESTS = "twinspire_gateway_requests_total"
CLOSED = "twinspire_gateway_connections_closed_total"


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
    with serve_registry(counted.server.gateway.metrics.registry, "127.0.0.1", 0) as port:
        url = f"http://127.0.0.1:{port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as response:
            families = [*text_string_to_metric_families(response.read().decode())]
    found = {sample.name: {*sample.labels} for family in families for sample in family.samples}
    found.pop("twinspire_gateway_request_seconds_created", None)
    assert found == prometheus.GATEWAY_METRICS


@pytest.mark.exhaustive
def test_open_connections_and_requests_in_progress_are_shown(counted: RunningGateway) -> None:
    with socket.create_connection(("127.0.0.1", counted.port)) as connection:
        head = b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(head + b'Content-Length: 100\r\n\r\n{"query"')
        wait_until(lambda: counted.scrape()["twinspire_gateway_pending_body_bytes",] == 8)
        found = counted.scrape()
        assert found["twinspire_gateway_in_progress",] == 0
        assert found["twinspire_gateway_connections",] == 1
    wait_until(lambda: counted.scrape()["twinspire_gateway_connections",] == 0)
    wait_until(lambda: counted.scrape()["twinspire_gateway_pending_body_bytes",] == 0)
    assert counted.scrape()[REQUESTS, "/v1/search", "499"] == 1  # its client has gone


def test_a_connection_that_sends_no_request_is_counted_when_it_is_closed(
    counted: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http1, "HEAD_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", counted.port)) as connection:
        connection.settimeout(30)
        assert is_ended(connection)
    assert counted.scrape()[CLOSED, "head"] == 1
    assert counted.scrape()[CLOSED, "full"] == 0


def start(*flags: str) -> "subprocess.Popen[str]":
    """The process of a gateway, of a service that is not there."""
    command = [sys.executable, "-m", "twinspire.serving.gateway", "--json", "--port", "0", *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_process_shows_its_metrics_on_a_port_of_their_own() -> None:
    process = start("--metrics-port", "0", "--address", "127.0.0.1:1")
    try:
        assert process.stdout is not None
        document = json.loads(process.stdout.readline())
        found = scraped(document["metrics_port"])
        assert found["twinspire_gateway_connections",] == 0
        assert document["metrics_port"] != document["port"]
    finally:
        os.kill(process.pid, signal.SIGTERM)
        _, log = process.communicate(timeout=60)
    assert process.returncode == 0, log


def test_a_port_of_the_metrics_that_is_in_use_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        process = start("--metrics-port", str(other.getsockname()[1]))
        _, log = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "cannot serve metrics there" in log
