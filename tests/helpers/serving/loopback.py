"""A client of a bundle's server, both in the process of the test."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from twinspire.serving.client import RetrievalClient
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.server import RetrievalServer


@contextmanager
def client_of(folder: Path) -> Iterator[RetrievalClient]:
    """A client of a server on the bundle in a folder; both end with the block."""
    with (
        RetrievalServer(Retriever.load(folder)) as server,
        RetrievalClient(server.address, timeout=30) as client,
    ):
        yield client
