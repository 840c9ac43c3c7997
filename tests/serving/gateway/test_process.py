"""The process: its line when it is ready, its end by a signal, and its errors."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from tests.helpers.serving.certificates import Authority
from tests.helpers.serving.gateways import JSON, RunningGateway, decided, decided_gateway, is_ended, read
from tests.helpers.waiting import wait_until
from tests.serving.conftest import ROOT
from twinspire.protos.errors import DataError
from twinspire.serving.__main__ import main
from twinspire.serving.gateway import http1, process
from twinspire.serving.gateway.options import GatewayBounds, GatewayOptions

SEARCH = {"query": {"text": "bavuti"}}
Started = tuple["subprocess.Popen[str]", dict[str, Any]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Start `python -m twinspire.serving gateway`; gives the process and what it says when it is ready."""
    processes: list[subprocess.Popen[str]] = []

    def begin(*flags: str) -> Started:
        started = subprocess.Popen(
            [sys.executable, "-m", "twinspire.serving", "gateway", "--json", "--port", "0", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        processes.append(started)
        assert started.stdout is not None
        line = started.stdout.readline()
        assert line, started.communicate()
        return started, json.loads(line)

    yield begin
    for each in processes:
        if each.poll() is None:
            os.kill(each.pid, signal.SIGKILL)
        each.communicate()


@pytest.mark.parametrize("limit", ["-Sn 100", "-n 100"], ids=["soft", "hard"])
def test_more_connections_than_descriptors_do_not_end_its_answers(limit: str) -> None:
    """Before, 1,100 connections ended them at the usual soft limit, and wrote 25,000 lines of log."""
    program = f"ulimit {limit}; exec {sys.executable} -m twinspire.serving.gateway --json --port 0 --address"
    with decided() as (_, address), ExitStack() as stack:
        running = subprocess.Popen(
            ["bash", "-c", f"{program} {address}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
        )
        try:
            assert running.stdout is not None
            port = json.loads(running.stdout.readline())["port"]
            for _ in range(150):
                each = socket.create_connection(("127.0.0.1", port), 30, ("127.0.1.1", 0))
                stack.enter_context(each)
            assert [ask(port) for _ in range(3)] == [200] * 3
        finally:
            running.terminate()
            _, log = running.communicate(timeout=30)
    assert log.count(b"\n") < 10, log[:2000].decode()
    assert (b"raise the hard limit" in log) == (limit == "-n 100")


def ask(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", "/v1/search", json.dumps(SEARCH), JSON)
        return read(connection).status
    finally:
        connection.close()


def test_an_encrypted_key_is_refused_without_asking_for_its_password(tmp_path: Path) -> None:
    pair = Authority().server()
    key = serialization.load_pem_private_key(pair.key, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    (tmp_path / "cert.pem").write_bytes(pair.certificate)
    (tmp_path / "key.pem").write_bytes(key)
    options = GatewayOptions(https_certificate=tmp_path / "cert.pem", https_key=tmp_path / "key.pem")
    with pytest.raises(DataError, match=r"key\.pem: is encrypted; expected a key without a password"):
        options.tls()


def test_a_signal_lets_requests_finish_and_ends_with_0(start: Callable[..., Started], tmp_path: Path) -> None:
    with decided() as (service, address):
        running, said = start("--address", address, "--port-file", str(tmp_path / "port"))
        port = said["port"]
        assert said == {
            "url": f"http://127.0.0.1:{port}",
            "host": "127.0.0.1",
            "port": port,
            "address": address,
            "compare": None,
        }
        assert (tmp_path / "port").read_text() == f"{port}\n"
        assert ask(port) == 200
        service.released.clear()
        found: list[int] = []
        asking = threading.Thread(target=lambda: found.append(ask(port)))
        asking.start()
        service.seen.get(timeout=30)
        service.seen.get(timeout=30)
        running.send_signal(signal.SIGTERM)
        running.send_signal(signal.SIGTERM)  # make's own, a moment later, is no impatience
        wait_until(lambda: _refuses(port))
        assert running.poll() is None
        service.released.set()
        asking.join(30)
        assert found == [200]
        assert running.wait(30) == 0
        assert running.stderr is not None
        assert "Traceback" not in running.stderr.read()


@pytest.mark.exhaustive
def test_a_second_signal_ends_it_at_once(start: Callable[..., Started]) -> None:
    with decided() as (service, address):
        running, said = start("--address", address, "--grace", "3600", "--timeout", "60")
        service.released.clear()
        outcomes: list[int | str] = []
        asking = threading.Thread(target=lambda: outcomes.append(_outcome(said["port"])))
        asking.start()
        service.seen.get(timeout=30)
        running.send_signal(signal.SIGINT)
        time.sleep(process.SIGNAL_DEBOUNCE_SECONDS + 0.1)
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 0
        assert running.stderr is not None
        assert "stopping at once: a second signal" in running.stderr.read()
        service.released.set()
        asking.join(30)
    assert outcomes in ([500], ["disconnected"])


def test_no_request_is_lost_when_it_stops_under_load() -> None:
    answered: list[int] = []
    failed: list[Exception] = []

    def client(running: RunningGateway) -> None:
        """Ask until the gateway says that the connection ends."""
        with running.connect() as connection:
            try:
                while True:
                    connection.request("POST", "/v1/search", json.dumps(SEARCH), JSON)
                    answer = read(connection)
                    answered.append(answer.status)
                    if answer.status != 200:
                        failed.append(AssertionError(answer.body))
                    if answer.headers.get("connection") == "close":
                        return
            except Exception as error:
                failed.append(error)

    with decided_gateway(grace=60.0) as (_, running):
        clients = [threading.Thread(target=client, args=(running,)) for _ in range(16)]
        for each in clients:
            each.start()
        wait_until(lambda: len(answered) > 200)
        running.stop()
        for each in clients:
            each.join(30)
    assert failed == []
    assert set(answered) == {200}


def test_an_answer_after_the_drain_says_that_the_connection_ends() -> None:
    """Also where its request began before the signal."""
    with decided_gateway(grace=60.0) as (service, running):
        service.released.clear()
        with running.connect("/v1/search", SEARCH) as connection:
            service.seen.get(timeout=30)
            running.stop()
            wait_until(lambda: _refuses(running.port))
            service.released.set()
            answer = read(connection)
    assert (answer.status, answer.headers.get("connection")) == (200, "close")


def test_a_refusal_says_that_the_connection_ends_when_the_gateway_stops() -> None:
    with decided_gateway(bounds=GatewayBounds(requests=1, max_body_bytes=1000)) as (service, running):
        service.released.clear()
        with running.connect("/v1/search", SEARCH) as first:
            service.seen.get(timeout=30)
            for is_stopping, expected in ((False, None), (True, "close")):
                running.server.gateway.is_stopping = is_stopping
                misdirected = running.ask("/v1/search", SEARCH, {"host": "evil.example"})
                assert (misdirected.status, misdirected.headers.get("connection")) == (421, expected)
                full = running.ask("/v1/search", SEARCH)
                assert (full.status, full.headers.get("connection")) == (503, expected)
            service.released.set()
            assert read(first).headers["connection"] == "close"
        too_large = running.ask("/v1/search", {"query": {"text": "a" * 1000}})
        assert (too_large.status, too_large.headers["connection"]) == (413, "close")  # once


def test_a_head_that_does_not_come_closes_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    with decided_gateway() as (_, running), running.connect() as asked:
        asked.request("POST", "/v1/search", json.dumps(SEARCH), JSON)
        assert read(asked).status == 200
        monkeypatch.setattr(http1, "HEAD_SECONDS", 0.3)
        for sent in (b"", b"POST /v1/search HTTP/1.1\r\nHost: "):
            with running.send(sent) as connection:
                assert is_ended(connection)
        closed = "twinspire_gateway_connections_closed_total"
        assert (running.scrape()[closed, "head"], running.scrape()[closed, "full"]) == (2, 0)
        # The connection that has asked paused for longer.
        asked.request("POST", "/v1/search", json.dumps(SEARCH), JSON)
        assert read(asked).status == 200


@pytest.mark.parametrize(
    ("flags", "code", "text"),
    [
        (["--port", "TAKEN"], 1, "cannot be listened on: Address already in use"),
        (["--host", "0.0.0.0"], 2, "0.0.0.0 can be reached from other machines"),
        (["--server-name", "a"], 2, "security.server_name: means nothing without TLS"),
        (["--host", "..", "--insecure"], 1, "cannot be listened on: not the name of a host"),
        (["--https-certificate", "nope.pem", "--https-key", "nope.pem"], 1, "nope.pem"),
        (["--ca", "nope.pem"], 1, "nope.pem: cannot be read"),
        (["--cors-origin", "*"], 2, "with * any page could call with the rights of this machine"),
        (["--requests", "0"], 2, "expected a whole number from 1"),
    ],
)
def test_what_is_wrong_is_said_without_a_stack(
    flags: list[str], code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        given = [str(taken.getsockname()[1]) if flag == "TAKEN" else flag for flag in flags]
        assert run_command("--port", "0", *given) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert text in shown.err
    assert "Traceback" not in shown.err


def test_without_its_libraries_it_says_which_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [each for each in sys.modules if each.startswith("starlette.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette", None)
    for name in ("twinspire.serving.gateway.process", "twinspire.serving.gateway.app"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr("twinspire.serving.gateway.process", raising=False)
    assert run_command() == 1
    assert "the gateway needs starlette; install it with: pip install '.[http]'" in capsys.readouterr().err


def run_command(*flags: str) -> int:
    """The exit code of `python -m twinspire.serving gateway`, in this process."""
    try:
        return main(["gateway", *flags])
    except SystemExit as end:
        return int(end.code or 0)


def _outcome(port: int) -> int | str:
    """The status of a search, or that the connection ended without one."""
    try:
        return ask(port)
    except (OSError, http.client.HTTPException):
        return "disconnected"


def _refuses(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) != 0
