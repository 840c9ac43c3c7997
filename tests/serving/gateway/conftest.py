"""A gateway of a real service."""

from collections.abc import Iterator

import pytest

from tests.helpers.serving.gateways import RunningGateway
from tests.helpers.serving.gateways import gateway as run_gateway
from twinspire.serving.server import RetrievalServer


@pytest.fixture(scope="session")
def gateway(server: RetrievalServer) -> Iterator[RunningGateway]:
    """A gateway of `server`."""
    with run_gateway(server.address) as running:
        yield running
