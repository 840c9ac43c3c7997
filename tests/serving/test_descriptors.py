"""The limit of descriptors, and a service with more connections than the soft one."""

import contextlib
import resource
import signal
import socket
import subprocess
import sys

import pytest

from tests.serving.conftest import ROOT, Start
from twinspire.serving.client import RetrievalClient
from twinspire.serving.descriptors import fitting

CODE = """
import resource
from twinspire.serving.descriptors import fitting
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, most))
assert fitting(10, 10, "--connections") == 10
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (most, most)
"""


def test_the_soft_limit_becomes_the_hard_one() -> None:
    subprocess.run([sys.executable, "-c", CODE], check=True, cwd=ROOT)


def test_a_worker_has_fewer_connections_than_descriptors(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (600, 600))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    assert fitting(344, 256, "--connections") == 344
    assert not caplog.text
    assert fitting(10, 1000, "--connections") == 1
    assert fitting(1024, 256, "--connections") == 344
    assert "--connections is 344 and not 1024" in caplog.text
    assert "ulimit -Hn 1280" in caplog.text


def test_a_service_answers_beside_more_idle_connections_than_its_soft_limit(start_server: Start) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip(f"the hard limit of descriptors is {hard}")
    flags = ("--connections-per-address", "1000", "--first-call-seconds", "600")
    process, address = start_server(*flags, descriptors=256)
    host, _, port = address.rpartition(":")
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))  # of this process, for its ends
        for _ in range(500):
            stack.enter_context(socket.create_connection((host, int(port)), 10))
        with RetrievalClient(address) as client:
            for _ in range(5):
                assert client.search("bavuti", timeout=60.0).hits
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=30)
    assert len(log.splitlines()) < 50
