"""A bundle answers from its own vectors, and refuses to when its parts do not fit together."""

import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnxruntime.quantization import quantize_dynamic

from tests.helpers.answers import hits_of
from tests.helpers.scores import difference
from tests.helpers.serving.following import reseal
from tests.helpers.tiny import item_ids, item_names, tiny_bundle
from tests.helpers.tiny_towers import DIMENSION, TEXT, TinyTower
from twinspire.protos.bundle import OLDEST_VERSION, QUERY_TOWER, IndexParameters, Precisions
from twinspire.protos.errors import BundleDamaged, InvalidInput
from twinspire.protos.features import NumberFeature
from twinspire.serving.retrieval.answer import Answer
from twinspire.serving.retrieval.encoder import MAX_PADDING, MAX_QUERIES, length_batches
from twinspire.serving.retrieval.query import NO_SEARCH, Query, SearchOptions
from twinspire.serving.retrieval.retriever import Retriever


def ids(answer: Answer) -> list[str]:
    return [hit.id for hit in answer.hits]


def test_golden_answer(retriever: Retriever) -> None:
    (answer,) = retriever.search([Query("Bavuti xelike mopy")], k=2)
    assert ids(answer) == ["item-063", "item-280"]
    scores = [hit.score for hit in answer.hits]
    np.testing.assert_allclose(scores, [0.909155, 0.898146], atol=1e-5)
    assert answer.hits[0].fields == {"name": "pylixe ketixe momovu", "section": "section 3"}
    assert answer.hits[1].fields == {"name": "vutiti moxepy livuba"}  # it has no section
    assert answer.bundle_version == retriever.manifest.bundle_version
    assert answer.timing.encode_us > 0


def test_golden_vector(retriever: Retriever) -> None:
    (vector,) = retriever.encode([Query("abba Ä")]).vectors
    expected = np.zeros(DIMENSION)
    expected[[1, 2, 4]] = [2, 2, 1]  # a, b, and ä, which is 228 = 7 * 32 + 4
    np.testing.assert_allclose(vector, expected / 3, atol=1e-6)


def test_a_batch_changes_nothing(full_retriever: Retriever) -> None:
    features: list[dict[str, Any]] = [{}, {"age": 30.0}, {"country": "de"}, {"tags": ("new", "?")}]
    queries = [Query("ab" * n, features=each) for n, each in enumerate(features, 1)]
    queries.append(Query(item_id="item-007"))
    together = full_retriever.encode(queries).vectors
    alone = [full_retriever.encode([query]).vectors[0] for query in queries]
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert len({vector.tobytes() for vector in together}) == len(queries)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_told_and_answers_nobody(
    retriever: Retriever, monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    run = retriever._query_encoder.tower._run

    def faulty(*arguments: Any) -> list[Any]:
        (vectors,) = run(*arguments)
        vectors[-1, 3] = wrong
        return [vectors]

    monkeypatch.setattr(retriever._query_encoder.tower, "_run", faulty)
    for count in (1, 3):
        prepared = [retriever.prepare(Query("a"))] * count
        for wanted in (SearchOptions(3), SearchOptions(3, frozenset({1})), NO_SEARCH):
            with pytest.raises(ArithmeticError, match="not finite"):
                retriever.find(retriever.encode_prepared(prepared), [wanted] * count)
        for ask in (retriever.encode, lambda queries: retriever.search(queries, 3)):
            with pytest.raises(ArithmeticError, match="not finite"):
                ask([Query("a")] * count)
    assert np.isfinite(retriever.item_vectors).all()


def test_more_like_this_leaves_the_item_itself_out(retriever: Retriever) -> None:
    like_text, like_item = retriever.search([Query(item_names(300)[7]), Query(item_id="item-007")], k=9)
    assert ids(like_text)[0] == "item-007"
    assert difference(hits_of(like_text)[1:9], hits_of(like_item)[:8]) == ""
    assert len(like_item.hits) == 9


def test_excluded_items_make_room_for_others(retriever: Retriever) -> None:
    (before,) = retriever.search([Query("bavuti xelike mopy")], k=10)
    excluded = [*ids(before)[:5], "retired-item"]
    (after,) = retriever.search([Query("bavuti xelike mopy")], k=10, exclude=excluded)
    assert ids(after)[:5] == ids(before)[5:]
    assert len(after.hits) == 10


@pytest.mark.parametrize("k", [300, 301, 100_000])
def test_a_large_k_gives_what_there_is(retriever: Retriever, k: int) -> None:
    (answer,) = retriever.search([Query("bake")], k=k)
    assert sorted(ids(answer)) == item_ids(300)
    scores = [hit.score for hit in answer.hits]
    assert scores == sorted(scores, reverse=True)
    (rest,) = retriever.search([Query("bake")], k=k, exclude=item_ids(300)[1:])
    assert ids(rest) == ["item-000"]


def test_k_and_queries_are_at_least_one(retriever: Retriever) -> None:
    with pytest.raises(InvalidInput, match="k: expected at least 1, got 0"):
        retriever.search([Query("a")], k=0)
    with pytest.raises(InvalidInput, match="queries: expected at least one"):
        retriever.search([], k=1)


def test_threads_do_not_disturb_each_other(retriever: Retriever) -> None:
    queries = [Query(name) for name in item_names(64)]
    alone = [ids(retriever.search([query], k=5 + n)[0]) for n, query in enumerate(queries)]
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda each: ids(retriever.search([each[1]], k=5 + each[0])[0]), enumerate(queries))
    assert list(found) == alone  # equal bits: each query is a batch of one, whichever thread asks


@pytest.mark.parametrize(
    ("tower", "changed", "expected"),
    [
        (TinyTower(dimension=16), {}, "query_tower.onnx: .* dimension is 32"),
        (TinyTower(output="y"), {}, "query_tower.onnx: .* expected an output named vector"),
        (
            TinyTower({"text": TEXT, "age": NumberFeature("number", column="age")}),
            {"features": {"text": TEXT}},
            "query_tower.onnx: takes .* but the manifest's features",
        ),
        (TinyTower(), {"count": 21}, "links.npy: .* expected uint32"),
        (TinyTower(), {"display_fields": ("name",)}, "items.json: .* display fields"),
        (TinyTower(), {"index": IndexParameters("l2", 8, 64, 32, 0)}, "links.npy: space 'l2'"),
        (TinyTower(wraps=False), {"examples": ({"text": "日本"},)}, "own examples"),
        (TinyTower(), {"examples": ({"colour": "red"},)}, "own examples"),
    ],
)
def test_a_bundle_whose_parts_do_not_fit_is_refused(
    tmp_path: Path, tower: TinyTower, changed: dict[str, Any], expected: str
) -> None:
    if "features" in changed:
        schema = Retriever.load(tiny_bundle(tmp_path, items=20)).manifest.schema
        changed = {"schema": replace(schema, query=changed["features"])}
    folder = tiny_bundle(tmp_path, items=20, query_tower=tower, **changed)
    with pytest.raises(BundleDamaged, match=expected):
        Retriever.load(folder)


def test_a_bundle_without_examples_is_served(tmp_path: Path) -> None:
    retriever = Retriever.load(tiny_bundle(tmp_path, items=5, examples=()))
    assert len(retriever.search([Query("a")], k=10)[0].hits) == 5


def test_a_bundle_whose_towers_are_of_variants_that_are_no_longer_made_is_served(
    plain: Path, tmp_path: Path
) -> None:
    def quantise(folder: Path) -> None:
        tower = folder / QUERY_TOWER
        quantize_dynamic(tower, tower, op_types_to_quantize=["Gather"])
        assert "DequantizeLinear" in {node.op_type for node in onnx.load(tower).graph.node}

    earlier = Precisions(query="int8_dynamic", item="int8_static")
    retriever = Retriever.load(reseal(plain, tmp_path, quantise, precision=earlier))
    assert retriever.manifest.precision == earlier
    (answer,) = retriever.search([Query(item_names(300)[7])], k=1)
    assert answer.hits[0].id == "item-007"


def test_the_bundle_of_schema_3_that_is_kept_here_is_served(tmp_path: Path) -> None:
    """It is of 1 December 2026. A change that keeps it from being served needs another version."""
    with zipfile.ZipFile(Path(__file__).with_name("bundle_of_schema_3.zip")) as kept:
        kept.extractall(tmp_path)
    (folder,) = tmp_path.iterdir()
    retriever = Retriever.load(folder)
    assert retriever.manifest.schema_version == OLDEST_VERSION == 3
    names = item_names(20)
    for n, answer in enumerate(retriever.search([*map(Query, names)], k=1)):
        assert answer.hits[0].id == f"item-{n:03}"
        assert dict(answer.hits[0].fields)["name"] == names[n]


@given(st.lists(st.integers(0, 300), min_size=1, max_size=3 * MAX_QUERIES))
def test_each_query_is_in_one_batch_with_little_padding(lengths: list[int]) -> None:
    parts = length_batches(lengths)
    assert sorted(place for part in parts for place in part) == [*range(len(lengths))]
    each = [[lengths[place] for place in part] for part in parts]
    for part in each:
        assert 1 <= len(part) <= MAX_QUERIES
        assert len(part) * max(part) - sum(part) <= MAX_PADDING
    if len(parts) > 1:
        assert all(max(part) <= min(after) for part, after in pairwise(each))
