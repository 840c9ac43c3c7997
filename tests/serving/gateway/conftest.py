"""A gateway of a real service."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.serving.gateways import RunningGateway
from tests.helpers.serving.gateways import gateway as run_gateway
from tests.helpers.serving.token_files import Tokens
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.security.auth import Access
from twinspire.serving.security.tokens import TokenFile
from twinspire.serving.server import RetrievalServer


@pytest.fixture(scope="session")
def gateway(server: RetrievalServer) -> Iterator[RunningGateway]:
    """A gateway of `server`."""
    with run_gateway(server.address) as running:
        yield running


@pytest.fixture
def guarded(retriever: Retriever, tmp_path: Path) -> Iterator[tuple[RunningGateway, str]]:
    """A gateway of a service that asks for tokens, and the token of a reader."""
    tokens = Tokens(tmp_path / "tokens.toml")
    access = Access(tokens=TokenFile(tokens.path))
    with RetrievalServer(retriever, access=access) as server, run_gateway(server.address) as running:
        yield running, tokens.plain["reader"]
