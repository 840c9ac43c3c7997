"""A service that records events while its processes are killed, and while its disk is full."""

import pytest

from tests.helpers.serving.cataloguing import CatalogueService
from tests.load.loop.kills import kills

pytestmark = pytest.mark.exhaustive


def test_what_was_acknowledged_is_stored_once_whatever_is_killed(service: CatalogueService) -> None:
    found = kills(service, 3, victims=("store", "worker"))
    assert found["killed"] == {"store": 2, "worker": 1}
    assert found["acknowledged"] > 0
    # Nothing is refused: the client sends requests again, and they have ids.
    assert (found["refused"], found["lost"], found["twice"]) == (0, 0, 0)
