"""What a service tells systemd, read from a real datagram socket as systemd reads it."""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.helpers.waiting import wait_until
from tests.serving.conftest import ROOT
from twinspire.serving.client import RetrievalClient
from twinspire.serving.service_manager import ServiceManager

WATCHDOG_USEC = "4000000"


class Manager:
    """The socket of a service manager."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(name.replace("@", "\0", 1))
        self.socket.settimeout(20)

    def read(self) -> dict[str, str]:
        """The next message: variable -> value."""
        lines = self.socket.recv(4096).decode().split("\n")
        return dict(line.split("=", 1) for line in lines)

    def read_until(self, variable: str) -> dict[str, str]:
        """The next message that sets a variable."""
        while variable not in (message := self.read()):
            pass
        return message


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(str(tmp_path / "notify"))
    with made.socket:
        yield made


@pytest.fixture
def abstract() -> Iterator[Manager]:
    made = Manager(f"@twinspire-test-{os.getpid()}")
    with made.socket:
        yield made


@pytest.mark.parametrize("name", ["manager", "abstract"])
def test_each_change_is_one_message(name: str, request: pytest.FixtureRequest) -> None:
    manager: Manager = request.getfixturevalue(name)
    environment = {"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": WATCHDOG_USEC, "OTHER": "stays"}
    service = ServiceManager.from_environment(environment)
    assert environment == {"OTHER": "stays"}
    assert service.expects_pings
    service.ready("serving pydocs\nREADY=0")
    assert manager.read() == {"READY": "1", "STATUS": "serving pydocs READY=0"}
    service.ping_watchdog()
    assert manager.read() == {"WATCHDOG": "1"}
    service.stopping("finishing")
    assert manager.read() == {"STOPPING": "1", "STATUS": "finishing"}


@pytest.mark.parametrize(
    "environment",
    [{}, {"WATCHDOG_USEC": ""}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "9", "WATCHDOG_PID": "1"}],
)
def test_no_sign_of_life_is_sent_where_none_is_expected(tmp_path: Path, environment: dict[str, str]) -> None:
    manager = Manager(str(tmp_path / "notify"))
    with manager.socket:
        service = ServiceManager.from_environment({"NOTIFY_SOCKET": manager.name, **environment})
        service.ping_watchdog()
        service.ready("now")
        assert manager.read() == {"READY": "1", "STATUS": "now"}


def test_the_manager_is_told_where_the_system_lacks_a_flag(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(socket, "SOCK_CLOEXEC", raising=False)  # as macOS; Python's sockets are not inherited
    ServiceManager(manager.name).ready("now")
    assert manager.read() == {"READY": "1", "STATUS": "now"}


def test_nothing_is_sent_without_a_manager(caplog: pytest.LogCaptureFixture) -> None:
    service = ServiceManager.from_environment({})
    service.ready("now")
    service.stopping("now")
    assert caplog.records == []


def test_an_unusable_socket_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    missing = tmp_path / "missing"
    service = ServiceManager(str(missing))
    service.ready("now")
    service.ready("again")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert str(missing) in record.getMessage()


def test_a_manager_that_does_not_read_does_not_stop_the_service(manager: Manager) -> None:
    service = ServiceManager(manager.name)
    began = time.monotonic()
    for _ in range(2000):  # more than the socket holds
        service.ready("now")
    assert time.monotonic() - began < 10


@pytest.mark.exhaustive
def test_a_service_tells_its_manager_of_its_whole_life(manager: Manager, plain: Path, tmp_path: Path) -> None:
    port_file = tmp_path / "port"
    flags = ["--bundle", str(plain), "--port", "0", "--port-file", str(port_file), "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "twinspire.serving", "serve", *flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env={**os.environ, "NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": WATCHDOG_USEC},
    )
    try:
        message = manager.read()  # nothing is sent before
        assert message["READY"] == "1"
        address = f"127.0.0.1:{wait_until(lambda: port_file.exists() and port_file.read_text().strip())}"
        assert address in message["STATUS"]
        with RetrievalClient(address) as client:  # it is ready: no waiting
            assert len(client.search("bavuti", k=1).hits) == 1
        for _ in range(3):
            manager.read_until("WATCHDOG")
        process.send_signal(signal.SIGTERM)
        manager.read_until("STOPPING")
        assert process.wait(20) == 0
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()


def test_a_service_that_cannot_start_is_never_ready(manager: Manager, tmp_path: Path) -> None:
    refused = subprocess.run(
        [
            sys.executable,
            "-m",
            "twinspire.serving",
            "serve",
            "--bundle",
            str(tmp_path / "none"),
            "--port",
            "0",
        ],
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, "NOTIFY_SOCKET": manager.name},
    )
    assert refused.returncode == 1
    manager.socket.settimeout(0.2)
    with pytest.raises(TimeoutError):
        manager.read()
