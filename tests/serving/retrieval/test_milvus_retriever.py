"""A retriever on a collection answers as exact search: hybrid bundles, inner products, items as queries."""

import threading
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.helpers.answers import differences, hits_of
from tests.helpers.milvus import needs_lite, publish
from tests.helpers.scores import difference
from tests.helpers.serving.reacting import reacting, soon
from tests.helpers.tiny import FILTERS, item_ids, item_names, tiny_bundle, watched_bundle
from twinspire.protos import bundle, retrieval_pb2_grpc
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.bundle import IndexParameters
from twinspire.protos.nearest.coded_vectors import CodedVectors
from twinspire.protos.vector_databases.milvus import URI
from twinspire.serving.filters.expression import where
from twinspire.serving.index.remote_search import local_only
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever

EXACT = IndexParameters("ip", 16, 100, 64, exact=True)
FLAT = IndexParameters("ip", 16, 100, 64, kind="milvus", options={"type": "FLAT"})


@needs_lite()
@pytest.mark.parametrize("is_hybrid", [True, False], ids=["hybrid", "inner products"])
def test_answers_are_those_of_exact_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_hybrid: bool
) -> None:
    monkeypatch.setenv(URI, str(tmp_path / "lite.db"))
    make: Any = tiny_bundle if is_hybrid else watched_bundle
    more = {"is_hybrid": True} if is_hybrid else {}
    folder = make(tmp_path, 300, index=FLAT, **more)
    publish(folder, bundle.read(folder))
    far, near = Retriever.load(folder), Retriever.load(make(tmp_path / "near", 300, index=EXACT, **more))
    assert (far.hybrid is not None) is is_hybrid
    if is_hybrid:
        queries = [Query(name) for name in item_names(300)[:40]]
    else:
        queries = [Query(history=tuple(item_ids(300)[n : n + 4])) for n in range(1, 40)]
    queries += [Query(item_id=each) for each in item_ids(300)[:5]]
    assert differences(near.search(queries, 10), far.search(queries, 10)) == []


@needs_lite()
def test_a_forked_process_connects_before_its_first_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(URI, str(tmp_path / "lite.db"))
    folder = tiny_bundle(tmp_path, 40, index=FLAT)
    publish(folder, bundle.read(folder))
    from twinspire.serving.index import milvus_index  # which imports a package of the extra

    monkeypatch.setattr(milvus_index, "check_apart", lambda folder: None)  # milvus-lite takes one process
    with local_only():
        index: Any = Retriever.load(folder).built.index
    assert index.collection.fields is None
    index.after_fork()
    assert soon(lambda: index.collection.fields is not None, 20)


@needs_lite()
def test_exact_comparisons_leave_the_event_loop_to_other_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an item as the query, all items are compared; of a filter that few items pass, those."""
    monkeypatch.setenv(URI, str(tmp_path / "lite.db"))
    folder = watched_bundle(tmp_path, 300, index=FLAT, filters=FILTERS)
    publish(folder, bundle.read(folder))
    far = Retriever.load(folder)
    near = Retriever.load(watched_bundle(tmp_path / "near", 300, index=EXACT, filters=FILTERS))
    item, history = item_ids(300)[3], item_ids(300)[4:8]
    below = wire.Range(below=wire.FilterValue(number=30.0))
    passing = wire.Filter(condition=wire.Condition(field="price", range=below))
    filtered = wire.SearchRequest(query={"history": history}, k=3, filter=passing)
    expected = near.search([Query(history=tuple(history))], 3, filter=where.price < 30.0)[0]
    calls = [
        (wire.SearchRequest(query={"item_id": item}, k=3), near.search([Query(item_id=item)], 3)[0]),
        (filtered, expected),
        (filtered, expected),
    ]
    compares, goes_on = threading.Semaphore(0), threading.Event()

    def held(compare: Any) -> Any:
        def wait(*arguments: Any) -> Any:
            compares.release()
            assert goes_on.wait(60)
            return compare(*arguments)

        return wait

    monkeypatch.setattr(CodedVectors, "exact", held(CodedVectors.exact))
    with reacting(far) as served, grpc.insecure_channel(served.address) as channel:
        stub = retrieval_pb2_grpc.RetrievalStub(channel)
        for request, best in calls:
            goes_on.clear()
            waiting = stub.Search.future(request, timeout=60)
            try:
                assert compares.acquire(timeout=30)
                assert stub.Info(wire.InfoRequest(), timeout=30).item_count == 300
                assert not waiting.done()
            finally:
                goes_on.set()
            found = [(hit.id, hit.score) for hit in waiting.result().hits]
            assert difference(hits_of(best), found) == ""
        assert served.becomes("in_flight", 0)
