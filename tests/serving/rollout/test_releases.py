"""A whole service on a real registry tells promotions and rollbacks as `export history` does."""

import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from serving.client import RetrievalClient
from tests.helpers.releases import record_move, served_records
from tests.helpers.serving.faulty import NAME, QUERY, Service, Versions
from tests.helpers.stdlib import tracking_at
from tests.helpers.tiny import tiny_bundle
from tests.helpers.waiting import wait_until

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.exhaustive]

HELD = {
    "name": "index_recall",
    "title": "recall of the index",
    "figure": 0.9876,
    "bound": 0.95,
    "holds": True,
}
SHOWN = {"shown_figure": "0.9876", "shown_bound": "≥ 0.9500"}
FAILED = {"name": "quality", "figure": -0.05, "bound": -0.01, "holds": False, "warning": "loses to BM25"}


@pytest.fixture
def registry(tmp_path: Path, empty_store: Path) -> Iterator[Versions]:
    """A registry with two versions, of which the first was promoted."""
    with tracking_at(f"sqlite:///{shutil.copy(empty_store, tmp_path / 'mlflow.db')}") as uri:
        versions = Versions(uri, tmp_path / "artefacts", direct=True)
        for items in (60, 40):
            versions.add_bundle(tiny_bundle(tmp_path / "made", items))
        record_move(NAME, "promote", "", "1", [HELD | SHOWN])
        yield versions


def test_promotions_and_rollbacks_are_told_as_history_tells_them(registry: Versions, tmp_path: Path) -> None:
    service = Service(f"sqlite:///{tmp_path}/mlflow.db", tmp_path)
    try:
        client = service.client

        def told(version: str) -> Any:
            """What the service tells, as soon as it serves a version and knows all of the history."""

            def ready() -> bool:
                found = client.releases()
                return found.model_version == version and list(found.records) == served_records(NAME)

            wait_until(ready, 60, lambda: (client.releases(), served_records(NAME), service.log()))
            return client.releases()

        first = told("1")
        assert (first.model, first.last_error) == (f"models:/{NAME}@champion", "")
        assert first.promotion == first.records[0]
        assert first.promotion["gates"] == [{**HELD, **SHOWN, "warning": ""}]
        record_move(NAME, "refuse", "1", "2", [HELD, FAILED])
        record_move(NAME, "force", "1", "2", [HELD | SHOWN, FAILED], "the shop opens")
        second = told("2")
        assert [each["holds"] for each in second.promotion["gates"]] == [True, False]
        assert second.promotion["reason"] == "the shop opens"
        record_move(NAME, "rollback", "2", "1", reason="worse answers")
        last = told("1")
        assert [each["action"] for each in last.records] == ["rollback", "force", "refuse", "promote"]
        assert last.promotion["number"] == 1
        (tmp_path / "mlflow.db").rename(tmp_path / "gone.db")
        wait_until(lambda: client.releases().last_error, 60, service.log)
        lost = client.releases()
        assert asdict(lost) == {**asdict(last), "last_error": lost.last_error}
        assert client.search(QUERY).hits
        with RetrievalClient(service.told["address"]) as other:
            assert other.releases() == lost
    finally:
        service.stop()
    assert "Traceback" not in service.log()
