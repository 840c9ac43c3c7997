"""A service that takes writes while its processes are killed, and while its store or its disk fails."""

import random
import resource
import signal
import time
from pathlib import Path

import grpc
import psutil
import pytest

from tests.helpers.serving.cataloguing import FAR, CatalogueService, catalogue_service, first, item
from tests.helpers.waiting import wait_until
from twinspire.protos import catalogue_pb2 as wire
from twinspire.protos import catalogue_pb2_grpc
from twinspire.protos.errors import (
    Unavailable,
)
from twinspire.serving.client import RetrievalClient

pytestmark = pytest.mark.exhaustive


def test_a_request_without_an_id_gets_an_error_if_its_outcome_is_not_known(small: CatalogueService) -> None:
    catalogue = psutil.Process(small.store_pid())
    with grpc.insecure_channel(small.address) as channel:
        stub = catalogue_pb2_grpc.CatalogueStub(channel)
        message = wire.ItemWrite(item={"id": "a", "features": {"text": {"text": "bavuti"}}})
        stub.Upsert(wire.UpsertRequest(items=[message]), timeout=20)
        catalogue.suspend()
        call = stub.Upsert.future(wire.UpsertRequest(items=[message]), timeout=20)
        with_id = stub.Upsert.future(wire.UpsertRequest(items=[message], request_id="r"), timeout=20)
        time.sleep(0.3)
        assert not call.done()
        late = stub.Upsert.future(wire.UpsertRequest(items=[message]), timeout=0.3)
        assert late.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED
        catalogue.kill()
        error = call.exception()
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "whether this was written is not known" in error.details()
        assert with_id.result().sequence >= 2


def test_a_store_that_is_damaged_or_missing_refuses_writes_and_the_service_goes_on_answering(
    small: CatalogueService,
) -> None:
    path = Path(small.url.removeprefix("sqlite:///"))
    with RetrievalClient(small.address, 20.0, retries=False) as client:
        client.upsert([item("a", FAR)])
        aside = path.parent / "aside"
        aside.mkdir()
        owner = psutil.Process(small.store_pid())
        owner.suspend()
        for each in path.parent.glob("items.db*"):
            each.rename(aside / each.name)
        path.write_bytes(b"this is not a database" * 1000)
        owner.kill()
        wait_until(lambda: "not a database" in client.info().state["catalogue"]["last_error"])
        with pytest.raises(Unavailable, match="not a database"):
            client.upsert([item("b")])
        assert first(client, FAR) == "a"
        _move(psutil.Process(small.store_pid()), aside, path)
        wait_until(lambda: client.info().state["catalogue"]["last_error"] == "")
        sequence = client.upsert([item("b", FAR)]).sequence
        assert sequence == 2
        assert first(client, FAR, sequence) in ("a", "b")
        owner = psutil.Process(small.store_pid())
        owner.suspend()
        for each in path.parent.glob("items.db*"):
            each.rename(aside / each.name)
        owner.kill()  # its successor makes no other store
        wait_until(lambda: "is missing" in client.info().state["catalogue"]["last_error"])
        for call in (lambda: client.upsert([item("c")]), lambda: client.get(["a"])):
            with pytest.raises(Unavailable, match="is missing; put it back, or restart the service"):
                call()
        assert first(client, FAR) in ("a", "b")
        assert not path.exists()
        _move(psutil.Process(small.store_pid()), aside, path)
        wait_until(lambda: client.info().state["catalogue"]["last_error"] == "")
        assert client.upsert([item("c")]).sequence == 3


def _error_of_a_write(client: RetrievalClient, text: str = "bavuti") -> str:
    """What the service shows after a write that fails, until it has looked at the store again."""
    with pytest.raises(Unavailable):
        client.upsert([item("refused", text)])
    return str(client.info().state["catalogue"]["last_error"])


def _move(owner: psutil.Process, aside: Path, path: Path) -> None:
    """Put the files of a store back, while the process that opens them stands still."""
    owner.suspend()
    for each in path.parent.glob("items.db*"):
        each.unlink()
    for each in aside.glob("items.db*"):
        each.rename(path.parent / each.name)
    owner.resume()


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="there is no prlimit")
def test_a_full_disk_refuses_writes_and_loses_none_and_the_service_goes_on(small: CatalogueService) -> None:
    """A limit on the size of files has the same effect for one process: it can write no more."""
    owner = small.store_pid()
    acknowledged: dict[str, int] = {}
    long = "bavuti " * 2000
    with RetrievalClient(small.address, 20.0, retries=False) as client:
        client.upsert([item("a", FAR)])
        before = resource.prlimit(owner, resource.RLIMIT_FSIZE)
        resource.prlimit(owner, resource.RLIMIT_FSIZE, (1 << 20, before[1]))
        with pytest.raises(
            Unavailable, match=r"store cannot be written now: (database or disk is full|disk I/O)"
        ):
            for n in range(2000):
                acknowledged[f"n-{n}"] = client.upsert([item(f"n-{n}", long)]).sequence
        assert len(acknowledged) > 10
        with pytest.raises(Unavailable):
            client.upsert([item("refused", long)])
        assert first(client, FAR) == "a"
        wait_until(lambda: _error_of_a_write(client, long))
        stored = small.stored()
        assert {name: stored[name].sequence for name in acknowledged} == acknowledged
        resource.prlimit(owner, resource.RLIMIT_FSIZE, before)
        wait_until(lambda: _takes(client, "later"))
        sequence = client.upsert([item("b", FAR)]).sequence
        assert client.search("bavuti", k=1000, min_sequence=sequence).sequence >= sequence
        stored = small.stored()
    assert {name: stored[name].sequence for name in acknowledged} == acknowledged
    assert "refused" not in stored


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="there is no prlimit")
@pytest.mark.parametrize("url", ["postgresql"], indirect=True)  # whose files the limit does not touch
def test_encoded_items_that_cannot_be_written_refuse_writes_until_they_can(
    plain: Path, url: str, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    with catalogue_service(plain, url, tmp_path / "s", TWINSPIRE_CACHE=str(cache)) as service:
        owner = service.store_pid()
        with RetrievalClient(service.address, 3.0, retries=False) as client:
            client.upsert([item("a", FAR)])
            (log,) = (cache / "live").rglob("*.db-wal")
            before = resource.prlimit(owner, resource.RLIMIT_FSIZE)
            resource.prlimit(owner, resource.RLIMIT_FSIZE, (log.stat().st_size, before[1]))
            with pytest.raises(Unavailable):  # it is durable, and not found before the deadline
                client.upsert([item("late", "kelimo")])
            with pytest.raises(Unavailable, match="cannot be encoded now, and nothing was written") as caught:
                client.upsert([item("refused")])
            assert str(tmp_path) not in str(caught.value)
            assert first(client, FAR) == "a"
            resource.prlimit(owner, resource.RLIMIT_FSIZE, before)
            wait_until(lambda: _takes(client, "later"))
            ids = {each.id for each in client.search("kelimo", k=400, min_sequence=3).hits}
            assert {"a", "late", "later"} <= ids
            assert "refused" not in ids


def _takes(client: RetrievalClient, name: str) -> bool:
    try:
        client.upsert([item(name)])
    except Unavailable:
        return False
    return True


def test_nothing_acknowledged_is_lost_when_the_whole_service_is_killed(plain: Path, tmp_path: Path) -> None:
    """Eight times the process that owns the store is killed right after an acknowledgement, four times all.

    `tests/serving/load/test_livetest.py` kills it and workers under load.
    """
    generator = random.Random(1)
    acknowledged: dict[str, int] = {}
    url = f"sqlite:///{tmp_path}/items.db"
    with catalogue_service(plain, url, tmp_path / "service") as service:
        for turn in range(12):
            with service.client(60.0) as client:
                for n in range(generator.randrange(1, 4)):
                    name = f"{turn}-{n}"
                    acknowledged[name] = client.upsert([item(name)]).sequence
                if turn % 3 == 2:
                    service.stop(signal.SIGKILL)
                    service.start()
                else:
                    _kill_owner(service, Path(url.removeprefix("sqlite:///")))
        stored = service.stored()
        assert {name: stored[name].sequence for name in acknowledged} == acknowledged
        with service.client() as client:
            assert client.search("bavuti", k=1000).sequence == max(acknowledged.values())


def _kill_owner(service: CatalogueService, path: Path) -> None:
    """Kill the process that has the store open."""
    assert service.process is not None
    for child in psutil.Process(service.process.pid).children():
        if any(each.path == str(path) for each in child.open_files()):
            child.kill()
