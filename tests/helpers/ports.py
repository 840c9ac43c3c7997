"""Ports for servers that are told where to listen before they start."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held_port() -> Iterator[int]:
    """A port of 127.0.0.1 that the kernel gives to no other process while the block lasts.

    A socket is bound to it and never listens. A server that sets SO_REUSEADDR, or that sets SO_REUSEPORT and
    runs as the same user, can listen there nevertheless; until then, connections are refused. If the
    port were only looked up and released, a server of another test could take it first.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
