"""Writes of a service whose callers no longer wait for them."""

from pathlib import Path

import psutil
import pytest

from tests.helpers.serving.cataloguing import catalogue_service, item
from twinspire.protos.errors import DeadlineExceeded
from twinspire.serving.client import RetrievalClient


@pytest.mark.exhaustive
def test_a_write_whose_caller_has_given_up_does_not_follow_a_later_one(plain: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/items.db"
    with catalogue_service(plain, url, tmp_path / "service", TWINSPIRE_CACHE=str(tmp_path)) as service:
        catalogue = psutil.Process(service.store_pid())
        with RetrievalClient(service.address, 20.0, retries=False) as client:
            client.upsert([item("first")])
            catalogue.suspend()
            with pytest.raises(DeadlineExceeded):
                client.upsert([item("k", "old")], timeout=0.3)
            catalogue.resume()
            client.upsert([item("k", "new")])
        stored = {name: (each.sequence, each.features["text"]) for name, each in service.stored().items()}
        assert stored == {"first": (1, "bavuti"), "k": (2, "new")}
