"""Bundles with filter fields, and a real server on one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.tiny import FILTERS, tiny_bundle
from twinspire.serving.client import RetrievalClient
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.server import RetrievalServer


@pytest.fixture(scope="session")
def filtered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of 300 items with a filter field of each type."""
    return tiny_bundle(tmp_path_factory.mktemp("filtered"), filters=FILTERS)


@pytest.fixture(scope="session")
def filtered_retriever(filtered: Path) -> Retriever:
    """That bundle at work, without a transport."""
    return Retriever.load(filtered)


@pytest.fixture(scope="session")
def filtered_client(filtered_retriever: Retriever) -> Iterator[RetrievalClient]:
    """A client of a server on that bundle."""
    with RetrievalServer(filtered_retriever) as server, RetrievalClient(server.address) as client:
        client.wait_ready()
        yield client
