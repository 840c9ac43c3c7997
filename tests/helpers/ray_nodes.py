"""A Ray cluster of two nodes of one CPU each on this machine, in a process of its own.

    with ray_nodes() as nodes:
        nodes.address        # of the head, which has no CPU
        nodes.kill()         # the second node, at once
        nodes.add()          # another one

A test connects from a process of its own, because a process that has used Ray must not fork.
"""

import contextlib
import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from twinspire.train.paths import ROOT

MEMORY = 80 * 2**20  # bytes of a node's object store, the least that Ray takes
ENVIRONMENT = {  # no usage statistics are sent, and all listen on the loopback interface
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}


def needs_ray() -> pytest.MarkDecorator:
    """Skips tests where `ray` is not installed."""
    absent = importlib.util.find_spec("ray") is None
    return pytest.mark.skipif(absent, reason="ray is not installed")


@dataclass(frozen=True)
class Nodes:
    """The running cluster: `host:port` of its head, and the process that holds it."""

    address: str
    process: "subprocess.Popen[str]"

    def kill(self) -> None:
        """End the processes of a node by SIGKILL."""
        self._say("kill")

    def add(self) -> None:
        """Start a node of one CPU."""
        self._say("add")

    def _say(self, what: str) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline().strip() == what


@contextlib.contextmanager
def ray_nodes() -> Iterator[Nodes]:
    """Start a cluster within the block."""
    command = [sys.executable, "-m", __name__]
    environment = os.environ | ENVIRONMENT
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert address, "the cluster has not started"
            yield Nodes(address, process)
        finally:
            assert process.stdin is not None
            process.stdin.close()  # it then ends its nodes
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def _main() -> None:
    at: dict[str, Any] = {"node_ip_address": "127.0.0.1", "object_store_memory": MEMORY}
    at["include_dashboard"] = False
    cluster: Any = importlib.import_module("ray.cluster_utils").Cluster()
    cluster.add_node(num_cpus=0, **at)
    nodes = [cluster.add_node(num_cpus=1, **at) for _ in range(2)]
    _write(cluster.address)
    for line in sys.stdin:
        if line.strip() == "kill":
            cluster.remove_node(nodes.pop(), allow_graceful=False)
        else:
            nodes.append(cluster.add_node(num_cpus=1, **at))
        _write(line.strip())
    cluster.shutdown()


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _main()
