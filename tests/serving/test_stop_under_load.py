"""A signal to the process group of `make serve`, while 64 clients search as fast as they can."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers.serving.collector import Collector
from tests.helpers.serving.stopping import Made, clients_under_load, made_service, traces

pytestmark = [pytest.mark.exhaustive, pytest.mark.quiet]


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.stop()


@pytest.fixture
def make_serve(plain: Path, tmp_path: Path, collector: Collector) -> Iterator[Made]:
    """`make serve` with two workers and traces; gives the process and the address."""
    with made_service(plain, tmp_path, traces(collector)) as made:
        yield made


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_process_group_loses_no_request_of_64_clients(
    make_serve: Made, collector: Collector, number: signal.Signals
) -> None:
    process, address = make_serve
    with ThreadPoolExecutor(1) as pool:
        log = pool.submit(process.communicate)  # reads it, or the workers could not write
        with clients_under_load(address) as clients:
            os.killpg(process.pid, number)
            clients.join()
        _, told = log.result(30)
    clients.check(collector)
    assert not [word for word in ("killed", "died", "Traceback") if word in told], told
