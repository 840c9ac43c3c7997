"""The well-behaved client of the HTTP gateway: connections that are kept, and new ones."""

import http.client
import json
import queue
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

NEW_EVERY = 10  # calls, of which one is on a connection of its own
JSON = "application/json"


class HttpClient:
    """Searches over one connection.

    Args:
        address: of the gateway.
        timeout: of each request in seconds.
        repeated: gets an entry for each request that was repeated, as its connection had been closed.
    """

    def __init__(self, address: str, timeout: float, repeated: "queue.SimpleQueue[None]") -> None:
        host, _, port = address.partition(":")
        self._connection = http.client.HTTPConnection(host, int(port), timeout=timeout)
        self._timeout, self._repeated = timeout, repeated
        self._is_used = False

    def search(self, query: str, k: int) -> Any:
        """The answer to a query, which has `hits`.

        Raises:
            ValueError: it is no 200.
        """
        return SimpleNamespace(**self._asked("/v1/search", {"query": {"text": query}, "k": k}))

    def search_stream(self, queries: Sequence[str], k: int, timeout: float) -> list[Any]:
        """The answers to several queries, in one request; as `search`."""
        body = {"queries": [{"text": query} for query in queries], "k": k}
        return [SimpleNamespace(**each) for each in self._asked("/v1/search:batch", body)["results"]]

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _asked(self, path: str, document: dict[str, Any]) -> Any:
        body = json.dumps(document)
        headers = {"Content-Type": JSON, "Request-Timeout": f"{self._timeout:g}"}
        try:
            response = self._response(path, body, headers)
        except (ConnectionError, http.client.BadStatusLine):
            if not self._is_used:
                raise
            self._repeated.put(None)
            self._connection.close()  # the server has closed it meanwhile, as it may
            response = self._response(path, body, headers)
        content = response.read()
        self._is_used = True
        if response.status != 200:
            raise ValueError(f"{response.status}: {content[:200]!r}")
        return json.loads(content)

    def _response(self, path: str, body: str, headers: dict[str, str]) -> http.client.HTTPResponse:
        self._connection.request("POST", path, body.encode(), headers)
        return self._connection.getresponse()


class HttpClients:
    """Gives clients for one call each, most of them with a connection that others have used before.

    Args:
        address: of the gateway.
        timeout: of each request in seconds.
    """

    def __init__(self, address: str, timeout: float) -> None:
        self._address, self._timeout = address, timeout
        self._kept: queue.SimpleQueue[HttpClient] = queue.SimpleQueue()
        self._repeated: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._count = 0

    @property
    def repeats(self) -> int:
        """Requests that were sent again, as the gateway had closed their connection."""
        return self._repeated.qsize()

    @contextmanager
    def __call__(self) -> Iterator[HttpClient]:
        """A client, whose connection is kept unless the call fails."""
        self._count += 1
        is_new = self._count % NEW_EVERY == 0
        try:
            if is_new:
                raise queue.Empty
            client = self._kept.get_nowait()
        except queue.Empty:
            client = HttpClient(self._address, self._timeout, self._repeated)
        try:
            yield client
        except BaseException:
            client.close()
            raise
        if is_new:
            client.close()
        else:
            self._kept.put(client)
