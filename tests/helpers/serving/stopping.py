"""`make serve`, and 64 clients that search while it is told to stop: it must answer each accepted request."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import grpc

from tests.helpers.serving.collector import PARENT, TRACE, Collector, attributes
from tests.helpers.waiting import wait_until
from tests.serving.conftest import ROOT
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos import retrieval_pb2_grpc as stubs

CLIENTS = 64
QUERY = "bavuti xelike mopy"
ALONE = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))  # a connection for each client

Made = tuple["subprocess.Popen[str]", str]  # a process, and the address of its service


@contextmanager
def made_service(bundle: Path, folder: Path, flags: str = "") -> Iterator[Made]:
    """`make serve` with two workers, in a process group of its own, which is killed at the end.

    Args:
        bundle: to serve.
        folder: for the file with the port.
        flags: of the service, besides.
    """
    port_file = folder / "port"
    variables = [f"PY={sys.executable}", f"BUNDLE={bundle}", "PORT=0", "METRICS_PORT=0", "WORKERS=2"]
    process = subprocess.Popen(
        ["make", "-o", ".venv/.installed", "serve", *variables, f"FLAGS=--port-file {port_file} {flags}"],
        stdout=subprocess.PIPE,
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
        process.communicate()


class LoadClients:
    """The clients: each has a connection, and searches until the service refuses.

    Attributes:
        answered: ids of the requests with a trace that were answered.
        failed: id of a request that was not -> its status.
    """

    def __init__(self, address: str, clients: int = CLIENTS) -> None:
        self._address = address
        self.clients = clients
        self.answered: set[str] = set()
        self.failed: dict[str, grpc.StatusCode] = {}
        self._stop = threading.Event()
        self._busy: set[int] = set()  # clients that have had an answer to a request with a trace
        self._traced = False  # whether requests have a trace
        self._threads = [threading.Thread(target=self._run, args=[n], daemon=True) for n in range(clients)]

    def _run(self, number: int) -> None:
        request = wire.SearchRequest(query=wire.Query(text=QUERY), k=5)
        with grpc.insecure_channel(self._address, options=ALONE) as channel:
            stub = stubs.RetrievalStub(channel)
            for n in count():
                name, is_traced = f"{number}-{n}", self._traced
                parent = f"00-{TRACE}-{PARENT}-{is_traced:02}"
                metadata = [("x-request-id", name), ("traceparent", parent)]
                try:
                    stub.Search(request, timeout=30, metadata=metadata)
                except grpc.RpcError as error:
                    self.failed[name] = error.code()
                    return
                if is_traced:
                    self.answered.add(name)
                    self._busy.add(number)
                if self._stop.is_set():
                    return

    def wait_busy(self) -> None:
        """Return when each client has had an answer with a trace, and so a request of each is on its way.

        Only requests from now on have a trace, since a worker keeps a few thousand spans at most.
        """
        self._traced = True
        wait_until(lambda: len(self._busy) == self.clients, 30, lambda: (len(self._busy), self.failed))

    def join(self) -> None:
        """Return when each client has been refused."""
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def check(self, collector: Collector) -> None:
        """Each request that the service has traced was answered, and the others were told to go elsewhere.

        gRPC cancels what it receives while it shuts down. On a machine so busy that clients do not run for a
        while, some are late in that way; `test_event_loop_stop.py` holds that others are refused with
        UNAVAILABLE.

        Args:
            collector: of the service's traces; the service has stopped.
        """
        found = [attributes(span) for span in collector.calls()]
        searches = [each for each in found if str(each["rpc.method"]).endswith("/Search")]
        accepted = {each["twinspire.request_id"] for each in searches}
        assert len(accepted) == len(searches), "a request was answered twice"
        assert {each["rpc.response.status_code"] for each in searches} == {"OK"}
        assert accepted == self.answered
        assert len(self.failed) == self.clients
        assert set(self.failed.values()) <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


def traces(collector: Collector) -> str:
    """Flags of a service that traces the requests that say so."""
    return f"--trace-endpoint {collector.endpoint} --trace-ratio 0"


@contextmanager
def clients_under_load(address: str) -> Iterator[LoadClients]:
    made = LoadClients(address)
    for thread in made._threads:
        thread.start()
    try:
        made.wait_busy()
        yield made
    finally:
        made._stop.set()
        made.join()
