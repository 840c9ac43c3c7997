"""A whole service that records events: real processes, real stores."""

from pathlib import Path

from tests.helpers.answers import differences
from tests.helpers.serving.cataloguing import CatalogueService, catalogue_service
from twinspire.serving.client import Event, Query, RetrievalClient

SECRET = "user-key-that-no-log-may-have"


def both_workers(service: CatalogueService) -> tuple[RetrievalClient, RetrievalClient]:
    """Clients of both workers of a service."""
    one, other = service.client(), service.client()
    while one.info().state["worker_pid"] == other.info().state["worker_pid"]:
        other.close()
        other = service.client()
    return one, other


def test_an_event_is_in_the_history_of_its_user_at_once_for_each_worker_and_host(
    service: CatalogueService, clicked: Path, url: str, tmp_path: Path
) -> None:
    one, other = both_workers(service)
    with (
        catalogue_service(clicked, url, tmp_path / "host", store="--events") as host,
        host.client() as far,
        one,
        other,
    ):
        ids = ["item-007", "item-100", "item-031", "item-007"]
        for n, item_id in enumerate(ids):
            assert one.record([Event(SECRET, item_id, time=1000.0 + n)]).stored == 1
            for client in (one, other, far):
                expected = client.search(Query(history=tuple(ids[: n + 1])), k=20)
                found = client.search(Query(user=SECRET), k=20)
                assert differences([found], [expected]) == []
        assert far.record([Event(SECRET, "item-200", "purchase")]).stored == 1
        longer = Query(history=(*ids, "item-200", "item-055"))
        found = one.search(Query(history=("item-055",), user=SECRET), k=20)  # its own history comes last
        assert differences([found], [one.search(longer, k=20)]) == []
        assert differences([one.search(Query(user="another"), k=20)], [one.search(Query(), k=20)]) == []
