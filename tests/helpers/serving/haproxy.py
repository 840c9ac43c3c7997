"""A real HAProxy with `serving/deploy/haproxy.cfg`, in front of a service on loopback."""

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.helpers.ports import held_port
from tests.load.services import ROOT
from twinspire.protos.errors import Unavailable

CONFIG = ROOT / "serving" / "deploy" / "haproxy.cfg"
PROGRAM = shutil.which("haproxy", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin") or ""
OLDEST = 3  # major version: `glitch_rate` and the thresholds for glitches are new in 3.0
START_SECONDS = 30.0


def missing() -> str:
    """Why there is no HAProxy to test with; empty where there is one."""
    if not PROGRAM:
        return "HAProxy is not installed: there is no haproxy on the PATH"
    said = subprocess.run([PROGRAM, "-v"], capture_output=True, text=True).stdout
    found = re.search(r"version (\d+)\.", said)
    if found is None or int(found[1]) < OLDEST:
        return f"HAProxy {OLDEST}.0 or newer is needed, and this is: {said.splitlines()[:1]}"
    return ""


def environment(address: str, service: str, **settings: str) -> dict[str, str]:
    return {**os.environ, "TWINSPIRE_LISTEN": address, "TWINSPIRE_SERVICE": service, **settings}


@contextmanager
def running(service: str, **settings: str) -> Iterator[str]:
    """Run HAProxy in front of a service for as long as the block lasts; gives its address.

    Args:
        service: address of the service.
        settings: environment that the configuration reads.

    Raises:
        Unavailable: HAProxy did not start.
    """
    with held_port() as port, tempfile.NamedTemporaryFile(prefix="haproxy-", suffix=".log") as log:
        process = subprocess.Popen(
            [PROGRAM, "-db", "-f", str(CONFIG)],
            stdout=log,
            stderr=log,
            env=environment(f"127.0.0.1:{port}", service, **settings),
        )
        try:
            until = time.monotonic() + START_SECONDS
            while not _listens(port):
                if process.poll() is not None or time.monotonic() > until:
                    raise Unavailable(f"HAProxy did not start: {Path(log.name).read_text()[-2000:]}")
                time.sleep(0.02)
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
