"""Services that record events, on bundles whose queries are histories."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.serving.cataloguing import CatalogueService, catalogue_service
from tests.helpers.tiny import watched_bundle

TYPES = {"click": 1, "purchase": 1, "dislike": -1}


@pytest.fixture(scope="session")
def clicked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose queries are histories of clicks and purchases, and which excludes what is disliked."""
    dataset = {"kind": "tiny", "items": 300, "repeats": "keep", "events": {"types": TYPES}}
    return watched_bundle(tmp_path_factory.mktemp("clicked"), dataset=dataset)


@pytest.fixture
def service(clicked: Path, url: str, tmp_path: Path) -> Iterator[CatalogueService]:
    """A service that records events, on each kind of store."""
    with catalogue_service(clicked, url, tmp_path / "service", store="--events") as service:
        yield service


@pytest.fixture
def small(clicked: Path, tmp_path: Path) -> Iterator[CatalogueService]:
    """A service that records events, on SQLite alone."""
    url = f"sqlite:///{tmp_path}/events.db"
    with catalogue_service(clicked, url, tmp_path / "service", store="--events") as service:
        yield service
