"""A signal to the process group of `make serve`, while 64 clients search as fast as they can."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.helpers.serving.stopping import crowd
from tests.helpers.waiting import wait_until
from tests.serving.conftest import ROOT

pytestmark = [pytest.mark.exhaustive, pytest.mark.alone]


@pytest.fixture
def make_serve(plain: Path, tmp_path: Path) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """`make serve` with two workers and a request log, in a process group of its own; and its address."""
    port_file = tmp_path / "port"
    variables = [f"PY={sys.executable}", f"BUNDLE={plain}", "PORT=0", "METRICS_PORT=0", "WORKERS=2"]
    flags = f"FLAGS=--port-file {port_file} --log-rate 1"
    process = subprocess.Popen(
        ["make", "-o", ".venv/.installed", "serve", *variables, flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )
    try:
        wait_until(port_file.exists)
        yield process, f"127.0.0.1:{port_file.read_text().strip()}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_process_group_loses_no_request_of_64_clients(
    make_serve: tuple["subprocess.Popen[str]", str], number: signal.Signals
) -> None:
    process, address = make_serve
    with ThreadPoolExecutor(1) as pool:
        log = pool.submit(process.communicate)  # reads it, or the workers could not write
        with crowd(address) as clients:
            os.killpg(process.pid, number)
            clients.join()
        _, told = log.result(30)
    clients.check(told)
    assert not [word for word in ("killed", "died", "Traceback") if word in told]
