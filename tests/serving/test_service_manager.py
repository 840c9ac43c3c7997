"""What a service tells systemd, read from a real datagram socket as systemd reads it."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.helpers.waiting import wait_until
from tests.serving.conftest import ROOT
from twinspire.serving.client import RetrievalClient
from twinspire.serving.service import notify


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
def test_each_change_is_one_message(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager: Manager = request.getfixturevalue(name)
    monkeypatch.setenv("NOTIFY_SOCKET", manager.name)
    notify("READY=1", "STATUS=serving pydocs")
    assert manager.read() == {"READY": "1", "STATUS": "serving pydocs"}
    for _ in range(2000):  # more than the socket holds: a manager that does not read stops nothing
        notify("WATCHDOG=1")
    assert manager.read() == {"WATCHDOG": "1"}


def test_an_unusable_socket_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    assert caplog.records == []
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "missing"))
    notify("READY=1")
    assert str(tmp_path / "missing") in caplog.text


@pytest.mark.exhaustive
def test_a_service_tells_its_manager_of_its_whole_life(manager: Manager, plain: Path, tmp_path: Path) -> None:
    port_file = tmp_path / "port"
    flags = ["--bundle", str(plain), "--port", "0", "--port-file", str(port_file), "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "twinspire.serving", "serve", *flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env={**os.environ, "NOTIFY_SOCKET": manager.name},
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
        assert process.wait(20) == 0
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()
