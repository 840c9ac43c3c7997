"""A real Prometheus with the rules of `serving/deploy/prometheus`, that scrapes a service on loopback."""

import json
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.helpers.ports import held_port
from tests.helpers.waiting import wait_until
from tests.serving.conftest import ROOT

CONFIG = ROOT / "serving" / "deploy" / "prometheus"
DASHBOARD = ROOT / "serving" / "deploy" / "grafana" / "dashboards" / "twinspire.json"
SCRAPE = "1s"
# What a gateway shows: name -> labels; `tests/serving/gateway/test_metrics.py` holds it against a real one.
GATEWAY_METRICS = {
    "twinspire_gateway_requests_total": {"path", "status"},
    "twinspire_gateway_request_seconds_bucket": {"path", "le"},
    "twinspire_gateway_request_seconds_count": {"path"},
    "twinspire_gateway_request_seconds_sum": {"path"},
    "twinspire_gateway_connections_closed_total": {"reason"},
    "twinspire_gateway_in_progress": set[str](),
    "twinspire_gateway_connections": set[str](),
    "twinspire_gateway_pending_body_bytes": set[str](),
}


def missing() -> str:
    """Why there is no Prometheus to test with; empty where there is one."""
    for program in ("prometheus", "promtool"):
        if shutil.which(program) is None:
            return f"Prometheus is not installed: there is no {program} on the PATH"
    return ""


class Prometheus:
    """The HTTP interface of one that runs."""

    def __init__(self, url: str) -> None:
        self._url = url

    def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer.

        Raises:
            AssertionError: Prometheus answers with an error, such as a query that it cannot parse.
        """
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def query(self, expression: str) -> list[tuple[Mapping[str, str], float]]:
        """The series of an instant query: labels and value."""
        found = self.get("query", query=expression)["result"]
        return [(each["metric"], float(each["value"][1])) for each in found]

    def alerts(self) -> set[str]:
        """Names of the alerts that fire, or soon will."""
        return {each["labels"]["alertname"] for each in self.get("alerts")["alerts"]}

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=20) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@contextmanager
def scraping(folder: Path, ports: Mapping[str, int]) -> Iterator[Prometheus]:
    """Run Prometheus with the configuration of `serving/deploy`, but for the targets and the intervals.

    Args:
        folder: an empty one, for its data.
        ports: name of a job -> port of its metrics.
    """
    config = yaml.safe_load((CONFIG / "prometheus.yml").read_text())
    config["global"] = dict.fromkeys(config["global"], SCRAPE)
    config["rule_files"] = [str(CONFIG / each) for each in config["rule_files"]]
    assert {job["job_name"] for job in config["scrape_configs"]} == ports.keys()
    for job in config["scrape_configs"]:
        (target,) = job["static_configs"]
        target["targets"] = [f"127.0.0.1:{ports[job['job_name']]}"]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with held_port() as port:
        address = f"127.0.0.1:{port}"
        command = [
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--web.listen-address={address}",
        ]
        with (folder / "prometheus.log").open("wb") as log:
            process = subprocess.Popen(
                [*command, f"--storage.tsdb.path={folder / 'data'}"], stdout=log, stderr=log, cwd=folder
            )
        try:
            made = Prometheus(f"http://{address}")
            wait_until(made.answers, 60, (folder / "prometheus.log").read_text)
            yield made
        finally:
            process.terminate()
            process.wait(30)


def dashboard_queries() -> dict[str, str]:
    """The queries of the dashboard, with its variables filled in: panel and letter -> query."""
    board = json.loads(DASHBOARD.read_text())
    queries = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in board["panels"]
        for target in panel.get("targets", ())
    }
    queries |= {f"annotation {each['name']}": each["expr"] for each in board["annotations"]["list"]}
    return {name: filled(query) for name, query in queries.items()}


def filled(query: str) -> str:
    """A query of the dashboard, as Grafana sends it for one job and all instances."""
    variables = {"${job}": "twinspire", "$job": "twinspire", "$instance": ".*", "$__rate_interval": "10s"}
    for name, value in variables.items():
        query = query.replace(name, value)
    return query
