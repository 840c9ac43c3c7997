"""A retriever on a collection answers as exact search, and a service on one needs no file of the items."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.answers import differences
from tests.helpers.tiny import FILTERS, item_ids, item_names, tiny_bundle, watched_bundle
from tests.helpers.vector_databases import ENGINES, SERVERS, Engine, publish
from twinspire.protos import bundle
from twinspire.protos.bundle import IndexParameters
from twinspire.protos.errors import BundleDamaged, UnknownItem
from twinspire.serving.benchmark import bundle_benchmark
from twinspire.serving.filters.expression import Filter, where
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever

COUNT = 300
EXACT = IndexParameters("ip", 16, 100, 64, exact=True)
CHEAP: list[Filter | None] = [None, where.price < 30, ~(where.section == "section 1"), where.price > 1e9]


@pytest.fixture(params=[tiny_bundle, watched_bundle], ids=["cosines", "inner products"])
def pair(
    request: pytest.FixtureRequest, engine: Engine, tmp_path: Path
) -> Iterator[tuple[Retriever, Retriever, Path]]:
    """A retriever here, and one on a collection from a folder without the items; and a whole folder."""
    make: Any = request.param
    whole = make(tmp_path, COUNT, index=engine.index(), filters=FILTERS)
    manifest = bundle.read(whole)
    publish(whole, manifest)
    served = tmp_path / "served"
    for name in (*manifest.served_files(), bundle.MANIFEST):
        (served / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(whole / name, served / name)
    near = Retriever.load(make(tmp_path / "near", COUNT, index=EXACT, filters=FILTERS))
    yield near, Retriever.load(served), whole


def queries(near: Retriever) -> list[Query]:
    if near._query_encoder.form.history is None:
        found = [Query(name) for name in item_names(COUNT)[:20]]
    else:
        found = [Query(history=tuple(item_ids(COUNT)[n : n + 4])) for n in range(1, 20)]
    return found + [Query(item_id=each) for each in item_ids(COUNT)[:5]]


@pytest.mark.parametrize("engine", SERVERS, indirect=True)
def test_answers_scores_and_measurements_are_those_of_exact_search(
    pair: tuple[Retriever, Retriever, Path],
) -> None:
    near, far, whole = pair
    assert {"vectors.npy", "items.json", "filters.npz"} <= far.manifest.files.keys()
    asked = queries(near)
    for each in CHEAP:
        found = far.search(asked, 10, exclude=item_ids(COUNT)[:3], filter=each)
        expected = near.search(asked, 10, exclude=item_ids(COUNT)[:3], filter=each)
        assert differences(expected, found) == []
        for hit in found[0].hits:
            assert hit.fields == near.items.fields(near.items.rows([hit.id]).pop())
    vector = near.encode(asked[:1]).vectors[0]
    wanted = ["item-007", "nothing", 'it"em', "nul\x00"]
    assert far.scores(vector, wanted)[1:] == [None, None, None]
    assert far.scores(vector, wanted)[0] == pytest.approx(near.scores(vector, wanted)[0], abs=1e-5)
    with pytest.raises(UnknownItem, match=r"queries\[0\].item_id: the catalogue holds no item 'nothing'"):
        far.search([Query(item_id="nothing")], 3)
    items = bundle_benchmark.local_segment(far, whole)
    assert {*bundle_benchmark.recall(far, items, 10)} == {1.0}


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
def test_a_bundle_without_its_collection_is_refused(engine: Engine, tmp_path: Path) -> None:
    folder = tiny_bundle(tmp_path, 40, index=engine.index())
    far = Retriever.load(folder)
    with pytest.raises(BundleDamaged, match="there is no collection twinspire_"):
        far.search([Query(item_names(40)[0])], 3)
    publish(folder, bundle.read(folder))
    assert len(far.search([Query(item_names(40)[0])], 3)[0].hits) == 3
