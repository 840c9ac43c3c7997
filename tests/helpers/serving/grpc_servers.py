"""Servers of gRPC for tests."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc


@contextmanager
def grpc_server(
    add: Callable[[grpc.Server], object],
    threads: int = 4,
    options: Sequence[tuple[str, Any]] = (),
    credentials: grpc.ServerCredentials | None = None,
) -> Iterator[str]:
    """A server on a free port for as long as the block lasts; its address.

    Args:
        add: adds the handlers to a server that has not started.
        threads: that answer.
        options: of gRPC.
        credentials: of TLS; without, the server speaks in the clear.
    """
    with ThreadPoolExecutor(threads) as pool:
        server = grpc.server(pool, options=list(options))
        add(server)
        where = "127.0.0.1:0"
        port = server.add_secure_port(where, credentials) if credentials else server.add_insecure_port(where)
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait(30)
