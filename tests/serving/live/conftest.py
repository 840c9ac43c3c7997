"""Stores on SQLite and PostgreSQL, and services that take writes into them."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.helpers.mlflow_servers import postgres, without_postgres
from tests.helpers.serving.cataloguing import CatalogueService, catalogue_service


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """A PostgreSQL cluster."""
    if why := without_postgres():
        pytest.skip(why)
    with postgres() as uri:
        yield uri


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.exhaustive)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where a store may be made."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/live/items.db"
        return
    cluster = request.getfixturevalue("cluster")
    name = f"store_{random.SystemRandom().getrandbits(40)}"
    engine = sa.create_engine(
        cluster.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    yield cluster.replace("/postgres?", f"/{name}?")


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
