"""With TWINSPIRE_LOG_FORMAT=json every line on the stderr of a service and of a gateway is JSON."""

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.serving.certificates import Authority
from tests.helpers.serving.faulty import NAME, Service, Versions
from tests.helpers.tiny import tiny_bundle
from tests.helpers.waiting import wait_until
from tests.serving.conftest import ROOT, Start
from twinspire.protos.system import logs

pytestmark = pytest.mark.filterwarnings("ignore")  # of MLflow
CHALLENGER = f"models:/{NAME}@challenger"


@pytest.fixture(autouse=True)
def as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes log JSON."""
    monkeypatch.setenv(logs.FORMAT, logs.JSON)


def read(text: str) -> list[dict[str, Any]]:
    """The lines, each of which is a JSON object with the fields of a log."""
    lines = [json.loads(line) for line in text.splitlines()]
    for each in lines:
        assert {"time", "level", "logger", "process", "message"} <= {*each}
    return lines


@pytest.mark.exhaustive
def test_every_line_of_a_services_life_is_json(tmp_path: Path, empty_store: Path) -> None:
    """It follows two aliases, swaps, loses a worker, is sent SIGHUP, and stops."""
    uri = f"sqlite:///{shutil.copy(empty_store, tmp_path / 'mlflow.db')}"
    versions = Versions(uri, tmp_path / "artefacts", direct=True)
    for items in (300, 200):
        versions.add_bundle(tiny_bundle(tmp_path / "made", items))
    versions.point("1")
    flags = ("--canary", CHALLENGER, "--canary-share", "0.5", "--shadow", CHALLENGER, "--shadow-share", "1")
    service = Service(uri, tmp_path, *flags, "--catalogue", f"sqlite:///{tmp_path}/items.db")
    try:
        said: Callable[[], str] = service.log
        versions.point("2", "challenger")
        wait_until(lambda: "canary" in {each["role"] for each in service.state()["bundles"]}, 60, said)
        versions.point("2")
        wait_until(lambda: service.served() == "2", 60, said)
        os.kill(int(service.state()["worker_pid"]), signal.SIGKILL)
        wait_until(lambda: "SIGKILL" in said(), 60, said)
        service.process.send_signal(signal.SIGHUP)
        wait_until(lambda: service.state()["workers_up"] == 2, 60, said)
    finally:
        service.stop()
        versions.close()
    lines = read(service.log())
    assert len({each["process"] for each in lines}) >= 3  # supervisor, workers, follower
    assert {each["logger"] for each in lines} > {"twinspire.serving.service", "twinspire.serving.supervisor"}


def test_failed_handshakes_and_what_is_no_call_leave_json(start_server: Start, tmp_path: Path) -> None:
    authority = Authority()
    certificate, key = authority.server().write(tmp_path)
    pair = ("--tls-certificate", str(certificate), "--tls-key", str(key))
    process, address = start_server("--workers", "1", *pair)
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n" * 10)
        connection.recv(1000)
    with socket.create_connection((host, int(port))) as connection, pytest.raises(ssl.SSLError):
        ssl.create_default_context().wrap_socket(connection, server_hostname="localhost")
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 0
    assert any("serving at" in each["message"] for each in read(log))


def test_every_line_of_a_gateways_life_is_json() -> None:
    command = [sys.executable, "-m", "twinspire.serving.gateway", "--port", "0", "--access-log"]
    process = subprocess.Popen(
        [*command, "--address", "127.0.0.1:1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    url = json.loads(process.stdout.readline())["url"]
    asked = urllib.request.Request(f"{url}/healthz", headers={"X-Request-Id": "mine-1"})
    with urllib.request.urlopen(asked, timeout=10) as answer:
        assert answer.headers["X-Request-Id"] == "mine-1"
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 0
    (shown,) = [each for each in read(log) if each.get("request_id") == "mine-1"]
    assert shown["message"].startswith("GET /healthz 200 in ")
