"""Two bundles to swap."""

from pathlib import Path

import pytest

from tests.helpers.tiny import tiny_bundle


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Bundles of one model, of 300 and of 200 items."""
    parent = tmp_path_factory.mktemp("swapped")
    return tiny_bundle(parent, 300), tiny_bundle(parent, 200)
