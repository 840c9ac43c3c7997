"""A bundle of histories behind a real server; nothing is imported before a test asks for it."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.helpers.stdlib import Made
    from twinspire.serving.client import RetrievalClient


@pytest.fixture(scope="session")
def films_client(films_made: "Made") -> Iterator["RetrievalClient"]:
    """A client of a server on the bundle of `films_made`."""
    from tests.helpers.serving.loopback import client_of

    with client_of(films_made.folder) as client:
        yield client


@pytest.fixture(scope="module")
def warm_fetches() -> Iterator[None]:
    """`registry.fetch` of a module's tests runs its command in a fork that has MLflow imported.

    `test_registry.py` tests the genuine command.
    """
    from tests.helpers import warm
    from twinspire.export.release import registry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "subprocess", SimpleNamespace(run=warm.run))
        yield
