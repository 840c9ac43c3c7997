"""The index against exact search, before and after it was written."""

from pathlib import Path

import hnswlib
import numpy as np
import pytest

from export import index
from train.config import IndexConfig

CONFIG = IndexConfig(threads=1)


def unit_vectors(count: int, dimension: int = 24, seed: int = 0) -> index.Vectors:
    vectors = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


ITEMS = unit_vectors(3000)
QUERIES = unit_vectors(200, seed=1)


def test_exact_search_ranks_by_inner_product() -> None:
    found = index.exact(QUERIES, ITEMS, 7)
    for query, rows in zip(QUERIES, found, strict=True):
        assert rows.tolist() == np.argsort(-(ITEMS @ query))[:7].tolist()
    assert index.exact(QUERIES, ITEMS[:3], 7).shape == (200, 3)


def test_recall_is_the_same_after_a_reload(tmp_path: Path) -> None:
    graph = index.build(ITEMS, CONFIG)
    before = index.approximate(graph, QUERIES, 10, 40)
    index.save(graph, tmp_path / "index.hnsw")
    again = hnswlib.Index(index.SPACE, 24)
    again.load_index(str(tmp_path / "index.hnsw"))
    assert np.array_equal(before, index.approximate(again, QUERIES, 10, 40))
    assert index.recalls(before, ITEMS, QUERIES, 10).mean() > 0.9


def test_recall_counts_what_exact_search_finds() -> None:
    truth = index.exact(QUERIES, ITEMS, 10)
    assert index.recalls(truth, ITEMS, QUERIES, 10).tolist() == [1.0] * 200
    half = truth.copy()
    half[:, 5:] = np.argmin(QUERIES @ ITEMS.T, axis=1)[:, None]
    assert index.recalls(half, ITEMS, QUERIES, 10).tolist() == [0.5] * 200


def test_one_of_many_equal_items_is_as_good_as_another() -> None:
    items = np.repeat(unit_vectors(30), 20, axis=0)
    found = index.exact(QUERIES, items, 10)
    other = found // 20 * 20 + (found + 1) % 20  # a twin of each
    assert index.recalls(other, items, QUERIES, 10).tolist() == [1.0] * 200


def test_the_smallest_width_that_reaches_the_target_is_chosen() -> None:
    graph = index.build(ITEMS, CONFIG)
    tuned = index.tune(graph, ITEMS, QUERIES, CONFIG)
    assert tuned.reached
    reaching = [p["ef"] for p in tuned.curve if p["recall"] - p["standard_error"] >= CONFIG.recall_target]
    assert tuned.ef_search == reaching[0]
    assert [p["ef"] for p in tuned.curve][-2:] == reaching  # one rung past the choice
    loose = index.tune(graph, ITEMS, QUERIES, IndexConfig(threads=1, recall_target=0.5))
    assert loose.ef_search < tuned.ef_search


def test_a_target_out_of_reach_is_said_to_be() -> None:
    graph = index.build(ITEMS, IndexConfig(m=2, ef_construction=3, threads=1))
    tuned = index.tune(graph, ITEMS, QUERIES, IndexConfig(threads=1, recall_target=1.1))
    assert not tuned.reached


@pytest.mark.parametrize("seed", [0, 7])
def test_one_thread_builds_the_same_bytes(tmp_path: Path, seed: int) -> None:
    config = IndexConfig(threads=1, seed=seed)
    for name in ("a", "b"):
        index.save(index.build(ITEMS, config), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
