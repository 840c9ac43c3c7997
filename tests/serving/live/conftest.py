"""Services that take writes into stores on SQLite and PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.serving.cataloguing import CatalogueService, catalogue_service


@pytest.fixture
def service(plain: Path, url: str, tmp_path: Path) -> Iterator[CatalogueService]:
    """A service that takes writes, on each kind of store."""
    with catalogue_service(plain, url, tmp_path / "service") as service:
        yield service


@pytest.fixture
def small(plain: Path, tmp_path: Path) -> Iterator[CatalogueService]:
    """A service that takes writes, on SQLite alone."""
    with catalogue_service(plain, f"sqlite:///{tmp_path}/items.db", tmp_path / "service") as service:
        yield service
