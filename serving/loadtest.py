"""Closed-loop load on a server of this machine: `python -m serving loadtest --clients 8`.

Each client sends its next query when the last one is answered, so the load never exceeds what the
server bears; and clients and server share the machine's cores. The figures are a regression check,
not the capacity of a server that has the machine to itself.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from protos import retrieval_pb2 as wire
from protos import retrieval_pb2_grpc
from protos.errors import DataError, MissingStage
from serving.client import OPTIONS, RetrievalClient
from serving.convert import query_to_wire
from serving.query import Query, example_query

MAX_CLIENTS = 256
MAX_SECONDS = 300.0
NOTE = "closed loop; clients and server share one machine"


@dataclass(frozen=True)
class Load:
    """What to send.

    Args:
        clients: that ask at the same time, each on a connection of its own.
        seconds: that are measured.
        k: items asked for; 0 for the server's default.
        warm_up_seconds: before the measurement.
        seed: of each client's order of queries.
    """

    clients: int = 4
    seconds: float = 10.0
    k: int = 0
    warm_up_seconds: float = 1.0
    seed: int = 0


def run(
    address: str, queries: Sequence[Query], load: Load, tick: Callable[[float], None] | None = None
) -> dict[str, Any]:
    """Send the load and report what came back.

    Args:
        address: of a server on this machine.
        queries: sent over and over, each client in its own order; one query alone looks faster than
            it is, because all that it touches stays in the caches.
        load: how much.
        tick: called with the seconds that have passed, while waiting.

    Returns:
        Counts, `requests_per_s` and latencies in milliseconds; latencies are of answered requests.
    """
    requests = [  # nobody is shown what they have just dealt with
        wire.SearchRequest(query=query_to_wire(query), k=load.k, exclude_history=True) for query in queries
    ]
    start = time.perf_counter() + load.warm_up_seconds
    stop = start + load.seconds
    clients = [_Client(address, requests, load.seed + n, start, stop) for n in range(load.clients)]
    for client in clients:
        client.start()
    while (now := time.perf_counter()) < stop:
        if tick:
            tick(max(0.0, now - start))
        time.sleep(min(0.1, stop - now))
    for client in clients:
        client.join()
    return _report(clients, len(requests), load)


def read_queries(path: Path) -> list[Query]:
    """Text queries from a file, one on each line; empty lines are left out.

    Raises:
        DataError: the file cannot be read, or holds none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    queries = [Query(text=line) for line in lines if line.strip()]
    if not queries:
        raise DataError(f"{path}: expected a query on each line, found none")
    return queries


def example_queries(address: str) -> list[Query]:
    """The example queries of the bundle that is being served.

    Raises:
        MissingStage: it has none.
    """
    with RetrievalClient(address) as client:
        examples: Any = client.info().manifest["examples"]
    if not examples:
        raise MissingStage("the bundle has no example queries; give some with --queries")
    return [example_query(example) for example in examples]


class _Client(threading.Thread):
    """One client: asks, waits for the answer, asks again."""

    def __init__(
        self,
        address: str,
        requests: Sequence[wire.SearchRequest],
        seed: int,
        start: float,
        stop: float,
    ) -> None:
        super().__init__(name="load", daemon=True)
        self._address = address
        self._requests = random.Random(seed).sample(requests, len(requests))
        self._measured_from, self._measured_to = start, stop
        self.latencies: list[float] = []  # seconds
        self.codes: Counter[str] = Counter()

    def run(self) -> None:
        options = [*OPTIONS, ("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        with grpc.insecure_channel(self._address, options=options) as channel:
            search = retrieval_pb2_grpc.RetrievalStub(channel).Search
            sent = 0
            while (began := time.perf_counter()) < self._measured_to:
                code = _code(search, self._requests[sent % len(self._requests)])
                ended = time.perf_counter()
                sent += 1
                if began < self._measured_from or ended > self._measured_to:
                    continue  # warming up, or not inside the measured time as a whole
                self.codes[code] += 1
                if code == "OK":
                    self.latencies.append(ended - began)


def _code(search: Any, request: wire.SearchRequest) -> str:
    try:
        search(request, timeout=5.0)
    except grpc.RpcError as failure:
        return str(failure.code().name)
    return "OK"


def _report(clients: Sequence[_Client], distinct: int, load: Load) -> dict[str, Any]:
    codes = sum((client.codes for client in clients), Counter())
    latencies = np.array([each for client in clients for each in client.latencies])
    report = {
        "note": NOTE,
        "clients": load.clients,
        "seconds": load.seconds,
        "distinct_queries": distinct,
        "requests": codes.total(),
        "errors": {code: count for code, count in sorted(codes.items()) if code != "OK"},
        "requests_per_s": round(codes["OK"] / load.seconds, 1),
    }
    for percentile in (50, 95, 99) if len(latencies) else ():
        milliseconds = float(np.percentile(latencies, percentile)) * 1000
        report[f"search_p{percentile}_ms"] = round(milliseconds, 3)
    return report
