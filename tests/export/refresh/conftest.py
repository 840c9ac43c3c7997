"""A champion and a store for the tests of refreshes; nothing is imported before a test asks for it."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.helpers.refreshing import World


@pytest.fixture
def world(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "World":
    """A registry and a store; refreshes start no processes."""
    from tests.helpers.refreshing import World, without_processes

    world = World(tmp_path)
    without_processes(world, monkeypatch)
    return world
