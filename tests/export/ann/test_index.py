"""HNSW graphs against exact search, in memory and after a reload."""

import dataclasses
import errno
import shutil
from pathlib import Path

import hnswlib
import numpy as np
import pytest

from tests.helpers import graphs
from tests.helpers.limited import files_limited_to
from tests.helpers.tiny import watched_bundle
from twinspire.export import ann
from twinspire.protos import bundle
from twinspire.protos.bundle import IndexParameters, Score
from twinspire.protos.errors import GateRefused
from twinspire.serving.index.hnsw_file import read_graph
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
    ann.save(graph, tmp_path / "index.hnsw")
    again = hnswlib.Index(ann.SPACE, 24)
    again.load_index(str(tmp_path / "index.hnsw"))
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
    tuned = ann.tune(graph, ITEMS, QUERIES, CONFIG)
    assert tuned.reached
    reaching = [p["ef"] for p in tuned.curve if ann.reaches_target(p, CONFIG.recall_target)]
    assert tuned.ef_search == reaching[0]
    assert [p["ef"] for p in tuned.curve][-2:] == reaching  # one rung past the choice
    loose = ann.tune(graph, ITEMS, QUERIES, dataclasses.replace(CONFIG, recall_target=0.5))
    assert loose.ef_search < tuned.ef_search


def test_a_target_out_of_reach_is_reported() -> None:
    graph = graphs.build(ITEMS, IndexConfig(m=2, ef_construction=3, threads=1))
    tuned = ann.tune(graph, ITEMS, QUERIES, IndexConfig(threads=1, recall_target=1.0))
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
    tuned = ann.tune(graph, ITEMS[:count], QUERIES, CONFIG)
    assert tuned.reached
    assert tuned.ef_search <= max(count, CONFIG.k)
    found = ann.approximate(graph, QUERIES, CONFIG.k, tuned.ef_search)
    assert found.shape == (len(QUERIES), min(count, CONFIG.k))
    assert ann.recalls(found, ITEMS[:count], QUERIES, CONFIG.k).mean() >= CONFIG.recall_target


@pytest.mark.parametrize("twins", [2, 5, 60])
def test_recall_reaches_the_target_with_duplicates(twins: int) -> None:
    items = np.concatenate([np.repeat(unit_vectors(1500 // twins), twins, axis=0), ITEMS[:500]])
    graph = graphs.build(items, CONFIG)
    tuned = ann.tune(graph, items, QUERIES, CONFIG)
    found = ann.approximate(graph, QUERIES, CONFIG.k, tuned.ef_search)
    assert tuned.reached
    assert ann.recalls(found, items, QUERIES, CONFIG.k).mean() >= CONFIG.recall_target
    wide = ann.approximate(graph, QUERIES, 100, tuned.ef_search)
    assert all(len({*row}) == 100 for row in wide.tolist())


@pytest.mark.parametrize("name", ["one of many", "first of all", "each often", "rounded apart"])
def test_a_vector_shared_by_many_items_does_not_disconnect_the_graph(name: str) -> None:
    items = COPIED[name]
    graph = graphs.build(items, CONFIG)
    tuned = ann.tune(graph, items, QUERIES[:100], CONFIG)
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


def test_copies_are_complete_items_in_the_file(tmp_path: Path) -> None:
    items = COPIED["rounded apart"]
    graph = graphs.build(items, CONFIG)
    ann.save(graph, tmp_path / "index.hnsw")
    read = read_graph(tmp_path / "index.hnsw", ann.SPACE, 24)
    assert read.get_current_count() == len(items)
    held = np.asarray(read.get_items(range(len(items)), return_type="numpy"))
    np.testing.assert_array_equal(held, items)
    found = ann.approximate(graph, QUERIES, 30, 60)
    np.testing.assert_array_equal(found, ann.approximate(read, QUERIES, 30, 60))
    _, all_of_them = read.knn_query(held[:1], 700, num_threads=1)
    assert np.isfinite(all_of_them).all()


def test_every_copy_of_a_vector_is_found() -> None:
    items = COPIED["one of many"]
    values, counts = np.unique(items, axis=0, return_counts=True)
    shared = values[counts == 400]
    assert len(shared) == 3
    found = ann.approximate(graphs.build(items, CONFIG), shared, 400, 400)
    for query, rows in zip(shared, found, strict=True):
        assert {*rows.tolist()} == {*np.flatnonzero((items == query).all(axis=1)).tolist()}


def test_a_graph_with_few_copies_is_the_one_of_hnswlib(tmp_path: Path) -> None:
    items = np.concatenate([np.repeat(ITEMS[:100], 3, axis=0), ITEMS[100:600]])
    bare = hnswlib.Index(ann.SPACE, 24)
    bare.init_index(len(items), M=16, ef_construction=200, random_seed=0)
    bare.add_items(items, np.arange(len(items)), num_threads=1)
    ann.save(bare, tmp_path / "bare")
    ann.save(graphs.build(items, CONFIG), tmp_path / "ours")
    assert (tmp_path / "bare").read_bytes() == (tmp_path / "ours").read_bytes()


def test_duplicates_are_found_without_the_padding_dimension() -> None:
    random = np.random.default_rng(3)
    items = np.repeat(unit_vectors(50, seed=2), 30, axis=0)
    items[:, -1] *= random.choice([-1, 1], len(items))
    graph = graphs.build(items, CONFIG, Score("inner_product"))
    held = np.asarray(graph.get_items(range(len(items)), return_type="numpy"))
    np.testing.assert_array_equal(held[:, :-1], items[:, :-1])
    assert (held[:, -1] == 0).all()
    queries = QUERIES * (np.arange(24) < 23)
    found = ann.approximate(graph, queries, 10, 400)
    assert ann.recalls(found, items, queries, 10).mean() >= 0.98


def test_a_disconnected_graph_is_refused() -> None:
    graph = graphs.build(ITEMS, IndexConfig(m=2, ef_construction=1, threads=1))
    with pytest.raises(GateRefused, match=r"index: a search reaches fewer than 1500 items; raise index\.m"):
        ann.approximate(graph, QUERIES, 1500, 10)


def test_recall_grows_with_the_width() -> None:
    graph = graphs.build(ITEMS, CONFIG)
    curve = ann.tune(graph, ITEMS, QUERIES, CONFIG).curve
    served = [ef for ef in ann.EF_LADDER if ef >= 2 * CONFIG.k]
    assert [point["ef"] for point in curve] == served[: len(curve)]
    assert len(curve) > 3
    recalls = [point["recall"] for point in curve]
    assert recalls == sorted(recalls)
    assert all(point["us_per_query"] > 0 for point in curve)


def test_a_k_above_the_largest_width_is_the_width() -> None:
    config = dataclasses.replace(CONFIG, k=2500)
    tuned = ann.tune(graphs.build(ITEMS, config), ITEMS, QUERIES[:5], config)
    assert tuned.ef_search >= 2500
    assert tuned.reached


def test_the_parameters_of_a_manifest_build_the_same_graph(tmp_path: Path) -> None:
    said = IndexParameters("ip", 12, 90, 40, 3, True)
    ann.save(ann.build_graph(said, ITEMS, threads=1), tmp_path / "index.hnsw")
    graph = hnswlib.Index(said.space, ITEMS.shape[1])
    graph.load_index(str(tmp_path / "index.hnsw"))
    assert (graph.M, graph.ef_construction) == (said.m, said.ef_construction)
    np.testing.assert_array_equal(graph.get_items(range(9), return_type="numpy"), ITEMS[:9])


def test_a_graph_holds_zero_in_the_padding_dimension() -> None:
    products = Score("inner_product")
    graph = graphs.build(ITEMS, CONFIG, products)
    held = np.asarray(graph.get_items(range(9), return_type="numpy"))
    np.testing.assert_array_equal(held[:, :-1], ITEMS[:9, :-1])
    assert (held[:, -1] == 0).all()
    assert (ITEMS[:, -1] != 0).all()  # the caller's are left as they are
    queries = QUERIES * (np.arange(24) < 23)  # as towers give them
    found = ann.approximate(graph, queries, 10, 200)
    assert ann.recalls(found, ITEMS, queries, 10).mean() > 0.98


def test_an_item_as_a_query_is_compared_with_the_padding_dimension(tmp_path: Path) -> None:
    folder = watched_bundle(tmp_path / "whole", 3000)
    manifest = dataclasses.replace(bundle.read(folder), files={}, bundle_version="")
    vectors = unit_vectors(3000, manifest.dimension)

    def fill(draft: Path) -> None:
        shutil.copytree(folder, draft, dirs_exist_ok=True)
        (draft / bundle.MANIFEST).unlink()
        np.save(draft / bundle.VECTORS, vectors)
        ann.save(graphs.build(vectors, CONFIG, manifest.score), draft / bundle.INDEX)

    retriever = Retriever.load(bundle.write(tmp_path, manifest, fill))
    assert manifest.score == Score("inner_product")
    queries = [Query(item_id="item-005"), Query(history=("item-001", "item-002")), Query(item_id="item-009")]
    answers = retriever.search(queries, 10)
    for answer, row in ((answers[0], 5), (answers[2], 9)):
        cosines = np.sort(np.delete(vectors @ vectors[row], row))[::-1]
        assert [hit.score for hit in answer.hits] == pytest.approx(cosines[:10].tolist(), abs=1e-6)
    assert len(answers[1].hits) == 10


def test_an_incomplete_file_of_hnswlib_is_an_error(tmp_path: Path) -> None:
    graph = graphs.build(unit_vectors(2000), CONFIG)
    path = tmp_path / "index.hnsw"
    with files_limited_to(graph.index_file_size() - 1), pytest.raises(OSError, match="hnswlib wrote") as told:
        ann.save(graph, path)
    assert (told.value.errno, told.value.filename) == (errno.ENOSPC, str(path))
    ann.save(graph, path)
    assert path.stat().st_size == graph.index_file_size()
