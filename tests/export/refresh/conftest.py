"""A champion and a store for the tests of refreshes."""

from pathlib import Path

import pytest

from tests.helpers.refreshing import World, without_processes


@pytest.fixture
def world(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A registry and a store; refreshes start no processes."""
    world = World(tmp_path)
    without_processes(world, monkeypatch)
    return world
