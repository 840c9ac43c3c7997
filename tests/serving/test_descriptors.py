"""The limit of descriptors, and a service with more connections than the soft one."""

import contextlib
import resource
import signal
import socket
import subprocess
import sys

import pytest

from tests.serving.conftest import ROOT, Start
from twinspire.serving import service
from twinspire.serving.client import RetrievalClient
from twinspire.serving.engine.limits import OTHER_FILES, WorkerLimits

CODE = """
import resource
from twinspire.serving.descriptors import raise_descriptor_limit
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, most))
raise_descriptor_limit()
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (most, most)
"""


def test_the_soft_limit_becomes_the_hard_one() -> None:
    subprocess.run([sys.executable, "-c", CODE], check=True, cwd=ROOT)


def test_a_worker_has_fewer_connections_than_descriptors(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert WorkerLimits().within(OTHER_FILES + 5000) == WorkerLimits()
    assert WorkerLimits().within(OTHER_FILES + 100) == WorkerLimits(connections=100)
    assert WorkerLimits().within(10).connections == 1
    monkeypatch.setattr(resource, "getrlimit", lambda _: (600, 600))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    assert service._bounds(WorkerLimits()) == WorkerLimits(connections=600 - OTHER_FILES)
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
