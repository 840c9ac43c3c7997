"""A real Prometheus scrapes a service that has everything; the dashboard's queries have data under load."""

import json
import math
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from prometheus_client import start_http_server

from tests.helpers.serving import prometheus
from tests.helpers.serving.certificates import Authority
from tests.helpers.serving.faulty import NAME, Service, Versions
from tests.helpers.serving.gateways import RunningGateway
from tests.helpers.serving.gateways import gateway as run_gateway
from tests.helpers.serving.prometheus import Prometheus
from tests.helpers.serving.token_files import Tokens
from tests.helpers.tiny import FILTERS, item_names, tiny_bundle
from tests.helpers.waiting import wait_until
from tests.serving.deploy.test_prometheus import rules
from twinspire.protos.bundle import read_manifest
from twinspire.protos.errors import AccessDenied, TwinspireError
from twinspire.serving.client import Event, Item, RetrievalClient, where
from twinspire.serving.client.security import Security

MISSING = prometheus.missing()
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=MISSING),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.exhaustive,
    pytest.mark.quiet,
    pytest.mark.timeout(300),  # the shadow runs only while no other process wants the core
]

CHALLENGER = f"models:/{NAME}@challenger"


class Load(threading.Thread):
    """Searches, over gRPC and HTTP, with filters and without, writes, events, and calls without a token."""

    def __init__(self, address: str, ca: Path, token: str, gateway: RunningGateway) -> None:
        super().__init__(daemon=True)
        self._gateway, self._headers = gateway, {"authorization": f"Bearer {token}"}
        self.client = RetrievalClient(address, timeout=10, security=Security(ca=ca, token=token))
        self._stranger = RetrievalClient(address, timeout=10, security=Security(ca=ca), retries=False)
        self._stopped = threading.Event()
        self.errors: list[str] = []

    def run(self) -> None:
        """Ask until told to stop."""
        names = item_names(300)
        for n, name in enumerate(names * 1000):
            if self._stopped.is_set():
                return
            try:
                first = self.client.search(name, k=10)
                self.client.record([Event("user 1", "item 1", request_id=first.request_id, position=1)])
                self.client.search(name, k=10, filter=where.section == "section 4")
                answer = self._gateway.ask("/v1/search", {"query": {"text": name}}, self._headers)
                if answer.status != 200:
                    self.errors.append(str(answer.document))
                self.client.upsert([Item(f"live-{n % 50}", {"text": name}, {"name": name})])
            except TwinspireError as error:
                self.errors.append(str(error))
            with suppress(AccessDenied):
                self._stranger.search(name)
                self.errors.append("a stranger was answered")
            self._stopped.wait(0.01)

    def stop(self) -> None:
        """Ask no more."""
        self._stopped.set()
        self.join(30)
        self.client.close()
        self._stranger.close()


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Prometheus]:
    """Prometheus, beside a gateway and a service with all that it may have, under load."""
    folder = tmp_path_factory.mktemp("scraped")
    uri = f"sqlite:///{shutil.copy(empty_store, folder / 'mlflow.db')}"
    versions = Versions(uri, folder / "artefacts", direct=True)
    authority = Authority()
    ca = folder / "ca.pem"
    ca.write_bytes(authority.certificate)
    certificate, key = authority.server(last_day=60).write(folder)
    tokens = Tokens(folder / "tokens.toml")
    made = [tiny_bundle(folder / "made", items, filters=FILTERS) for items in (300, 200)]
    for each in made:
        versions.add_bundle(each)
    (folder / "served").mkdir()
    drift = {"features": {"text.length": {"psi": 0.01, "drifted": False}}, "computed": time.time()}
    document = {"bundle": read_manifest(made[0]).bundle_version, **drift}
    (folder / "served" / "drift.json").write_text(json.dumps(document))
    versions.point("1")
    versions.point("2", "challenger")
    flags = ["--canary", CHALLENGER, "--canary-share", "0.5", "--shadow", CHALLENGER, "--shadow-share", "1"]
    flags += ["--catalogue", f"sqlite:///{folder}/items.db", "--events", f"sqlite:///{folder}/events.db"]
    flags += ["--served-log", str(folder / "served"), "--served-log-share", "1"]
    flags += ["--served-log-flush-seconds", "1"]
    flags += ["--tokens", str(tokens.path)]
    flags += ["--tls-certificate", str(certificate), "--tls-key", str(key)]
    service = Service(uri, folder, *flags)
    service.client.close()
    data = folder / "prometheus"
    data.mkdir()
    with ExitStack() as stack:
        stack.callback(versions.close)
        stack.callback(service.stop)
        gateway = stack.enter_context(run_gateway(service.told["address"], security=Security(ca=ca)))
        # Its own /metrics asks for a token here, which Prometheus has none of.
        shown, thread = start_http_server(0, "127.0.0.1", gateway.server.gateway.metrics.registry)
        stack.callback(thread.join)
        stack.callback(shown.server_close)
        stack.callback(shown.shutdown)
        ports = {"twinspire": service.told["metrics_port"], "twinspire-gateway": shown.server_port}
        load = Load(service.told["address"], ca, tokens.plain["writer"], gateway)
        stack.callback(load.stop)
        service.client = load.client
        load.start()
        yield stack.enter_context(prometheus.scraping(data, ports))
        assert load.errors == []


def test_the_service_is_scraped(scraped: Prometheus) -> None:
    wait_until(lambda: len(scraped.query("up == 1")) == 2)
    targets = scraped.get("targets")["activeTargets"]
    assert [target["lastError"] for target in targets] == ["", ""]


def test_every_query_of_the_dashboard_has_data_under_load(scraped: Prometheus) -> None:
    empty = dict(prometheus.dashboard_queries())
    swaps = empty.pop("annotation Swaps")

    def all_have_data() -> bool:
        for name, query in list(empty.items()):
            found = scraped.query(query)
            if found and not any(math.isnan(value) for _, value in found):
                del empty[name]
        return not empty

    wait_until(all_have_data, 240, lambda: empty)
    assert scraped.query(swaps.removesuffix(" > 0"))  # there was no swap to mark


def test_every_rule_has_been_evaluated(scraped: Prometheus) -> None:
    wait_until(lambda: scraped.query("instance:twinspire_queries:rate5m > 0"))
    for rule in rules("record"):
        wait_until(lambda: scraped.query(rule["record"]), 30, lambda: rule)  # noqa: B023
    shown = [each for group in scraped.get("rules")["groups"] for each in group["rules"]]
    assert {each["name"] for each in shown if each["type"] == "alerting"} == {
        rule["alert"] for rule in rules("alert")
    }
    assert [each["lastError"] for each in shown if each.get("lastError")] == []


def test_a_service_under_this_load_fires_no_alert_but_for_the_strangers(scraped: Prometheus) -> None:
    wait_until(lambda: scraped.query("instance:twinspire_queries:rate5m > 0"))
    assert scraped.alerts() <= {"TwinspireAccessDenied", "TwinspireSlow"}  # a busy machine is slow
