"""Searches of one collection on a Milvus server, with a time limit and a circuit breaker.

gRPC repeats a search that finds no server, a few times within the search's own time
(`protos/vector_databases/milvus.py`).
After `FAILURES` failed searches in a row, the circuit breaker opens: for `REST_SECONDS` all searches are
refused without asking the server. Then searches are sent again, and the first answer closes the breaker.
"""

import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from twinspire.protos import entry_points
from twinspire.protos.bundle import Manifest
from twinspire.protos.errors import BundleDamaged, Unavailable
from twinspire.protos.vector_databases.milvus import (
    CONNECT_SECONDS,
    ID,
    URI,
    MilvusServer,
    check_collection,
    collection_name,
    import_breaker,
    reason_of,
    search_params,
    server_errors,
)
from twinspire.serving.index.remote_search import Best, ExpressionRefused, OutOfTime, Vectors
from twinspire.serving.index.vector_index import NOT_FINITE

FAILURES = 5
REST_SECONDS = 1
FAIR_SECONDS = 1.0  # a search that had less time and got no answer does not count as failed
CHECK_SECONDS = 1200.0  # in which the check of a collection in a process of its own has to end
_REFUSED = ("cannot parse expression", "failed to create query plan")  # in errors that refuse an expression


class _ServerFailed(Exception):
    """A search failed in a way that counts for the circuit breaker."""


class MilvusCollection:
    """The collection of one bundle; safe to call from several threads.

    The client is made by the first search and so after a fork, which its threads would not survive.

    Attributes:
        server: the server's address and credentials.
        fields: names of the fields of the collection; None until a client has connected.

    Raises:
        ConfigError: the environment does not name the server.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.name = collection_name(manifest.bundle_version)
        self._parameters = manifest.index
        self.server = MilvusServer.from_environment()
        self._where = f"the index of bundle {manifest.bundle_version[:12]} is on a Milvus server ({URI})"
        self._breaker = import_breaker()(FAILURES, REST_SECONDS, _ServerFailed, self.name)
        self._lock = threading.Lock()
        self._client: Any = None
        self._consistency: dict[str, Any] = {}
        self.fields: frozenset[str] | None = None

    def connected(self, seconds: float) -> Any:
        """The client of this process; connects it if it is not connected yet.

        Args:
            seconds: limit on each of three waits: for another thread that connects, for the connection, and
                for the description of the collection.

        Raises:
            OutOfTime: another thread still connects.
            Unavailable: the server does not answer.
        """
        if self._client is None:
            if not self._lock.acquire(timeout=seconds):
                raise OutOfTime(f"Milvus ({URI}) does not answer: another search waits for a connection")
            try:
                if self._client is None:
                    client = self.server.connect(seconds)
                    with server_errors():
                        described = client.describe_collection(self.name, timeout=seconds)
                    self.fields = frozenset(each["name"] for each in described["fields"])
                    self._consistency = (
                        {"consistency_level": "Strong"} if self.server.is_file else _consistency(client)
                    )
                    self._client = client
            finally:
                self._lock.release()
        return self._client

    def ask(self, vectors: Vectors, k: int, expression: str, seconds: float) -> list[Best]:
        """As `RemoteIndex.ask`.

        Raises:
            ArithmeticError: a vector is not finite.
            ExpressionRefused: the server does not take the expression.
            OutOfTime: it does not answer in `seconds`, which are fewer than `FAIR_SECONDS`, or another search
                still connects.
            Unavailable: it does not answer in `seconds`, or cannot, or the circuit breaker is open.
        """
        if not np.isfinite(vectors).all():
            raise ArithmeticError(NOT_FINITE)
        if self._breaker.opened:
            text = f"{self._where}, which has not answered the last searches; it is tried again soon"
            raise Unavailable(text)
        # `_ask` is not called within `with self._breaker`, which `OutOfTime` would close, too.
        try:
            found = self._ask(vectors, k, expression, seconds)
        except _ServerFailed as error:
            with suppress(_ServerFailed), self._breaker:
                raise
            raise Unavailable(f"{self._where}, which {error}") from None
        except ExpressionRefused:
            self._breaker.reset()
            raise
        self._breaker.reset()
        return found

    def _ask(self, vectors: Vectors, k: int, expression: str, seconds: float) -> list[Best]:
        import grpc
        from pymilvus.exceptions import MilvusException

        began = time.monotonic()
        until = began + seconds
        try:
            client = self.connected(seconds / 3)
            # Without pymilvus's own repetitions, which may take twice the time that they are given.
            future = client.search(
                self.name,
                data=[*vectors],
                filter=expression,
                limit=k,
                output_fields=[ID],
                search_params=search_params(self._parameters, k),
                timeout=max(0.001, until - time.monotonic()),
                _async=True,
                **self._consistency,
            )
            return [_best(hits) for hits in future.result()]
        except Unavailable as error:
            if seconds < FAIR_SECONDS and time.monotonic() - began > seconds / 4:  # slow, but maybe not down
                raise OutOfTime(str(error)) from None
            raise _ServerFailed(str(error)) from None
        except (MilvusException, grpc.RpcError) as error:
            if any(each in str(error) for each in _REFUSED):
                raise ExpressionRefused from None
            reason = reason_of(error)
            if "DEADLINE_EXCEEDED" in reason:
                if seconds < FAIR_SECONDS:
                    raise OutOfTime(f"{self._where}, which {reason} after {seconds:.2g} s") from None
                raise _ServerFailed(f"{reason} after {seconds:.2g} s") from None
            raise _ServerFailed(reason) from None


def check(collection: MilvusCollection, folder: Path, manifest: Manifest) -> None:
    """Load a collection and compare it with its bundle.

    Raises:
        BundleDamaged: there is no such collection, or it is not the bundle's.
        Unavailable: the server does not answer.
    """
    client = collection.server.connect()
    check_collection(client, collection.name, folder, manifest)
    collection.connected(CONNECT_SECONDS)


def check_apart(folder: Path) -> None:
    """As `check`, in a process of its own, for a process that forks afterwards.

    Raises:
        BundleDamaged, Unavailable: as `check`.
    """
    command = entry_points.command(entry_points.MILVUS_CHECK, str(folder))
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CHECK_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{folder}: its collection was not checked in {CHECK_SECONDS:.0f} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"the check ended with {done.returncode}"]
        kind, _, text = lines[-1].partition(": ")
        raise (BundleDamaged if kind == BundleDamaged.__name__ else Unavailable)(text or kind)


def _consistency(client: Any) -> dict[str, Any]:
    """Arguments with which a search sees all earlier writes: a timestamp of the server, or "Strong"."""
    try:
        now = client._get_connection().alloc_timestamp(timeout=FAIR_SECONDS)
    except Exception:  # a server without timestamps, or another version of pymilvus
        now = 0
    return (
        {"consistency_level": "Customized", "guarantee_timestamp": now}
        if now
        else {"consistency_level": "Strong"}
    )


def _best(hits: Any) -> Best:
    """Rows and scores of pymilvus's hits of one query."""
    rows = np.fromiter((each[ID] for each in hits), np.int64, len(hits))
    scores = np.fromiter((each["distance"] for each in hits), np.float32, len(hits))
    return rows, scores
