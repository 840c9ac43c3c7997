"""HNSW graphs against exact search, in memory and after a reload."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import graphs
from tests.helpers.limited import files_limited_to
from tests.helpers.tampered import reseal
from tests.helpers.tiny import build_links, watched_bundle
from twinspire.export import ann
from twinspire.protos import bundle
from twinspire.protos.bundle import IndexParameters, Score
from twinspire.protos.errors import GateRefused
from twinspire.protos.nearest.coded_vectors import CodedVectors
from twinspire.protos.nearest.links import read_links
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.train.config.index import IndexConfig

CONFIG = IndexConfig(m=16, ef_construction=200, threads=1)


def unit_vectors(count: int, dimension: int = 24, seed: int = 0) -> ann.Vectors:
    vectors = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


ITEMS = unit_vectors(3000)
QUERIES = unit_vectors(200, seed=1)


def test_exact_search_ranks_by_inner_product() -> None:
    found = ann.exact(QUERIES, ITEMS, 7)
    for query, rows in zip(QUERIES, found, strict=True):
        assert rows.tolist() == np.argsort(-(ITEMS @ query))[:7].tolist()
    assert ann.exact(QUERIES, ITEMS[:3], 7).shape == (200, 3)


def test_recall_is_the_same_after_a_reload(tmp_path: Path) -> None:
    graph = graphs.build(ITEMS, CONFIG)
    before = ann.approximate(graph, QUERIES, 10, 40)
    ann.save(graph, tmp_path / "links.npy")
    again = CodedVectors(ITEMS, links=read_links(tmp_path / "links.npy", len(ITEMS)))
    assert np.array_equal(before, ann.approximate(again, QUERIES, 10, 40))
    assert ann.recalls(before, ITEMS, QUERIES, 10).mean() > 0.9


def test_recall_counts_what_exact_search_finds() -> None:
    truth = ann.exact(QUERIES, ITEMS, 10)
    assert ann.recalls(truth, ITEMS, QUERIES, 10).tolist() == [1.0] * 200
    half = truth.copy()
    half[:, 5:] = np.argmin(QUERIES @ ITEMS.T, axis=1)[:, None]
    assert ann.recalls(half, ITEMS, QUERIES, 10).tolist() == [0.5] * 200


def test_recall_counts_equal_items_alike() -> None:
    items = np.repeat(unit_vectors(30), 20, axis=0)
    found = ann.exact(QUERIES, items, 10)
    other = found // 20 * 20 + (found + 1) % 20  # a twin of each
    assert ann.recalls(other, items, QUERIES, 10).tolist() == [1.0] * 200


def test_the_smallest_width_that_reaches_the_target_is_chosen() -> None:
    graph = graphs.build(ITEMS, CONFIG)
    tuned = ann.choose_ef(graph, QUERIES, CONFIG)
    assert tuned.reached
    reaching = [p["ef"] for p in tuned.curve if ann.reaches_target(p, CONFIG.recall_target)]
    assert tuned.ef_search == reaching[0]
    assert [p["ef"] for p in tuned.curve][-2:] == reaching  # one rung past the choice
    loose = ann.choose_ef(graph, QUERIES, dataclasses.replace(CONFIG, recall_target=0.5))
    assert loose.ef_search < tuned.ef_search


def test_a_target_out_of_reach_is_reported() -> None:
    graph = graphs.build(ITEMS, IndexConfig(m=2, ef_construction=3, threads=1))
    tuned = ann.choose_ef(graph, QUERIES, IndexConfig(threads=1, recall_target=1.0))
    assert not tuned.reached


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("copies", [1, 20])
def test_one_thread_builds_the_same_bytes(tmp_path: Path, seed: int, copies: int) -> None:
    config, items = dataclasses.replace(CONFIG, seed=seed), np.repeat(ITEMS[: 2000 // copies], copies, axis=0)
    for name in ("a", "b"):
        ann.save(graphs.build(items, config), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("count", [1, 9, 10, 20, 45])
def test_a_catalogue_smaller_than_the_smallest_width_is_searched_completely(count: int) -> None:
    graph = graphs.build(ITEMS[:count], CONFIG)
    tuned = ann.choose_ef(graph, QUERIES, CONFIG)
    assert tuned.reached
    assert tuned.ef_search <= max(count, CONFIG.k)
    found = ann.approximate(graph, QUERIES, CONFIG.k, tuned.ef_search)
    assert found.shape == (len(QUERIES), min(count, CONFIG.k))
    assert ann.recalls(found, ITEMS[:count], QUERIES, CONFIG.k).mean() >= CONFIG.recall_target


@pytest.mark.parametrize("twins", [2, 5, 60])
def test_recall_reaches_the_target_with_duplicates(twins: int) -> None:
    items = np.concatenate([np.repeat(unit_vectors(1500 // twins), twins, axis=0), ITEMS[:500]])
    graph = graphs.build(items, CONFIG)
    tuned = ann.choose_ef(graph, QUERIES, CONFIG)
    found = ann.approximate(graph, QUERIES, CONFIG.k, tuned.ef_search)
    assert tuned.reached
    assert ann.recalls(found, items, QUERIES, CONFIG.k).mean() >= CONFIG.recall_target
    wide = ann.approximate(graph, QUERIES, 100, tuned.ef_search)
    assert all(len({*row}) == 100 for row in wide.tolist())


@pytest.mark.parametrize("name", ["one of many", "first of all", "each often", "rounded apart"])
def test_a_vector_shared_by_many_items_does_not_disconnect_the_graph(name: str) -> None:
    items = COPIED[name]
    graph = graphs.build(items, CONFIG)
    tuned = ann.choose_ef(graph, QUERIES[:100], CONFIG)
    assert tuned.reached
    near = ann.exact(QUERIES[100:], items, 1)[:, 0]
    for queries in (QUERIES[100:], items[near], items[:1]):
        found = ann.approximate(graph, queries, CONFIG.k, tuned.ef_search)
        assert ann.recalls(found, items, queries, CONFIG.k).mean() >= CONFIG.recall_target
        assert all(len({*row}) == CONFIG.k for row in found.tolist())


def copied(name: str) -> ann.Vectors:
    random, shared = np.random.default_rng(5), unit_vectors(60, seed=6)
    if name == "first of all":
        return np.concatenate([np.repeat(shared[:1], 1500, axis=0), ITEMS[:1000]])
    if name == "each often":
        return np.repeat(shared, 40, axis=0)
    items = np.concatenate([np.repeat(shared[:3], 400, axis=0), ITEMS[:2000]])[random.permutation(3200)]
    if name == "rounded apart":
        return np.asarray(items + 1e-7 * random.standard_normal(items.shape), np.float32)
    return items


COPIED = {name: copied(name) for name in ("one of many", "first of all", "each often", "rounded apart")}


def test_every_copy_of_a_vector_is_found() -> None:
    items = COPIED["one of many"]
    values, counts = np.unique(items, axis=0, return_counts=True)
    shared = values[counts == 400]
    assert len(shared) == 3
    found = ann.approximate(graphs.build(items, CONFIG), shared, 400, 400)
    for query, rows in zip(shared, found, strict=True):
        assert {*rows.tolist()} == {*np.flatnonzero((items == query).all(axis=1)).tolist()}


def test_a_graph_with_few_copies_is_the_one_of_hnswlib() -> None:
    items = np.concatenate([np.repeat(ITEMS[:100], 3, axis=0), ITEMS[100:600]])
    np.testing.assert_array_equal(graphs.build(items, CONFIG).links, build_links(items, 16, 200))


def test_duplicates_are_found_without_the_padding_dimension() -> None:
    random = np.random.default_rng(3)
    items = np.repeat(unit_vectors(50, seed=2), 30, axis=0)
    items[:, -1] *= random.choice([-1, 1], len(items))
    graph = graphs.build(items, CONFIG, Score("inner_product"))
    queries = QUERIES * (np.arange(24) < 23)
    found = ann.approximate(graph, queries, 10, 400)
    assert ann.recalls(found, items, queries, 10).mean() >= 0.98


def test_a_disconnected_graph_is_refused() -> None:
    graph = graphs.build(ITEMS, IndexConfig(m=2, ef_construction=1, threads=1))
    with pytest.raises(GateRefused, match=r"index: a search reaches fewer than 1500 items; raise index\.m"):
        ann.approximate(graph, QUERIES, 1500, 10)


def test_recall_grows_with_the_width() -> None:
    graph = graphs.build(ITEMS, CONFIG)
    curve = ann.choose_ef(graph, QUERIES, CONFIG).curve
    served = [ef for ef in ann.EF_LADDER if ef >= 2 * CONFIG.k]
    assert [point["ef"] for point in curve] == served[: len(curve)]
    assert len(curve) > 3
    recalls = [point["recall"] for point in curve]
    assert recalls == sorted(recalls)
    assert all(point["us_per_query"] > 0 for point in curve)


def test_a_k_above_the_largest_width_is_the_width() -> None:
    config = dataclasses.replace(CONFIG, k=2500)
    tuned = ann.choose_ef(graphs.build(ITEMS, config), QUERIES[:5], config)
    assert tuned.ef_search >= 2500
    assert tuned.reached


def test_the_parameters_of_a_manifest_build_the_same_graph() -> None:
    said = IndexParameters("ip", 12, 90, 40, 0, True)
    np.testing.assert_array_equal(ann.build_graph(said, ITEMS, threads=1).links, build_links(ITEMS, 12, 90))


def test_a_graph_holds_zero_in_the_padding_dimension() -> None:
    products = Score("inner_product")
    graph = graphs.build(ITEMS, CONFIG, products)
    assert (ITEMS[:, -1] != 0).all()  # the caller's are left as they are
    np.testing.assert_array_equal(graph.links, build_links(ITEMS * (np.arange(24) < 23), 16, 200))
    queries = QUERIES * (np.arange(24) < 23)  # as towers give them
    found = ann.approximate(graph, queries, 10, 200)
    assert ann.recalls(found, ITEMS, queries, 10).mean() > 0.98


def test_an_item_as_a_query_is_compared_with_the_padding_dimension(tmp_path: Path) -> None:
    folder = watched_bundle(tmp_path / "whole", 3000)
    manifest = bundle.read(folder)
    vectors = unit_vectors(3000, manifest.dimension)

    def change(draft: Path) -> None:
        np.save(draft / bundle.VECTORS, vectors)
        ann.save(graphs.build(vectors, CONFIG, manifest.score), draft / bundle.LINKS)

    retriever = Retriever.load(reseal(folder, tmp_path, change))
    assert manifest.score == Score("inner_product")
    queries = [Query(item_id="item-005"), Query(history=("item-001", "item-002")), Query(item_id="item-009")]
    answers = retriever.search(queries, 10)
    for answer, row in ((answers[0], 5), (answers[2], 9)):
        cosines = np.sort(np.delete(vectors @ vectors[row], row))[::-1]
        assert [hit.score for hit in answer.hits] == pytest.approx(cosines[:10].tolist(), abs=1e-6)
    assert len(answers[1].hits) == 10


def test_an_incomplete_file_of_hnswlib_is_an_error() -> None:
    with (
        files_limited_to(100_000),
        pytest.raises(OSError, match=r"hnswlib wrote an incomplete file into .*element"),
    ):
        graphs.build(unit_vectors(2000), CONFIG)
