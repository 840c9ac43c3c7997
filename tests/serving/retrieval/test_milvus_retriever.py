"""A retriever on a collection answers as exact search: hybrid bundles, inner products, items as queries."""

from pathlib import Path
from typing import Any

import pytest

from protos import bundle
from protos.bundle import IndexParameters
from protos.vector_databases.milvus import URI
from serving.retrieval.query import Query
from serving.retrieval.remote_search import local_only
from serving.retrieval.retriever import Retriever
from tests.helpers.answers import differences
from tests.helpers.milvus import needs_lite, publish
from tests.helpers.serving.reacting import soon
from tests.helpers.tiny import item_ids, item_names, tiny_bundle, watched_bundle

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
    from serving.retrieval import milvus_index  # which imports a package of the extra

    monkeypatch.setattr(milvus_index, "check_apart", lambda folder: None)  # milvus-lite takes one process
    with local_only():
        index: Any = Retriever.load(folder).index
    assert index.collection.fields is None
    index.after_fork()
    assert soon(lambda: index.collection.fields is not None, 20)
