"""A server process as its operator sees it: its log while it runs, its workers, and its metrics."""

import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests.helpers.forking import forked
from twinspire.serving.client import RetrievalClient
from twinspire.serving.client.security import Security
from twinspire.serving.supervisor import ProcessSpec, Supervisor


def log_until(process: "subprocess.Popen[str]", text: str) -> list[str]:
    """The lines of the log up to the first that holds the text."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError(f"the log ended without {text!r}: {''.join(lines)}")


def workers(process: "subprocess.Popen[str]", address: str, security: Security | None = None) -> set[int]:
    """The ids of the processes that answer new connections; there are two."""
    found: set[int] = set()
    for _ in range(200):
        with RetrievalClient(address, security=security) as client:
            found.add(int(client.info().state["worker_pid"]))
        if len(found) == 2:
            break
    assert found <= {child.pid for child in psutil.Process(process.pid).children()}
    return found


def scrape(port: int) -> dict[str, float]:
    """The metrics: name and values of labels -> figure."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        families = text_string_to_metric_families(response.read().decode())
        return {
            f"{sample.name}{sorted(sample.labels.values())}": sample.value
            for family in families
            for sample in family.samples
        }


@contextmanager
def supervised(process: ProcessSpec, timeout: float = 0.0) -> Iterator[None]:
    """Run a supervisor of one process in a fork."""
    with forked(lambda: Supervisor([process], 1.0, timeout=timeout).run(lambda: None)):
        yield
