"""An index finds what exact search finds, at any k, among all items or some of them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.helpers.tiny import build_index, build_links, tiny_manifest
from tests.helpers.tiny_towers import TinyTower
from twinspire.protos.bundle import HNSWLIB, LINKS, VECTORS, IndexParameters, Manifest, Score
from twinspire.protos.errors import BundleDamaged, BundleTooNew
from twinspire.protos.nearest.coded_vectors import CodedVectors
from twinspire.protos.nearest.links import NO_LINK, Links
from twinspire.serving.segments import vector_index
from twinspire.serving.segments.vector_index import VectorIndex, open_index, shown_scores

COUNT, DIMENSION = 6000, 16
Vectors = npt.NDArray[np.float32]


def unit_vectors(count: int, seed: int) -> Vectors:
    vectors = np.random.default_rng(seed).normal(size=(count, DIMENSION)).astype(np.float32)
    unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


ITEM_VECTORS = unit_vectors(COUNT, seed=1)
QUERIES = unit_vectors(100, seed=2)
PARAMETERS = IndexParameters(space="ip", m=8, ef_construction=64, ef_search=80, seed=0)


def manifest(**changed: object) -> Manifest:
    bare = tiny_manifest(COUNT, TinyTower(), dimension=DIMENSION, index=PARAMETERS)
    return replace(bare, **changed)  # type: ignore[arg-type]


def write(folder: Path, vectors: Vectors, links: Links | None = None) -> Path:
    np.save(folder / VECTORS, vectors)
    np.save(folder / LINKS, build_links(vectors) if links is None else links)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("index"), ITEM_VECTORS)


Open = Callable[..., VectorIndex]


@pytest.fixture(scope="module")
def opened(folder: Path) -> Open:
    """Opens an index over the vectors; with `exact=True` one that compares all items."""
    return lambda exact=False: open_index(folder, manifest(index=replace(PARAMETERS, exact=exact)))


def recall(found: npt.NDArray[np.int64], exact: npt.NDArray[np.int64]) -> float:
    shares = [len({*a} & {*b}) / len(b) for a, b in zip(found.tolist(), exact.tolist(), strict=True)]
    return float(np.mean(shares))


@pytest.mark.parametrize("k", [1, 33, 100])
def test_recall_against_exact_search_at_any_k(opened: Open, k: int) -> None:
    index = opened()
    found, scores = index.search(QUERIES, k)
    exact, exact_scores = index.exact(QUERIES, k)
    assert found.shape == scores.shape == (100, k)
    assert recall(found, exact) >= 0.97
    assert np.all(np.diff(scores, axis=1) <= 0)
    np.testing.assert_allclose(scores[:, 0], exact_scores[:, 0], atol=1e-5)


def test_a_graph_of_an_earlier_version_is_searched_alike(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / VECTORS, ITEM_VECTORS)
    build_index(ITEM_VECTORS).save_index(str(tmp_path / HNSWLIB))
    earlier = open_index(tmp_path, manifest(schema_version=3)).search(QUERIES, 10)
    for found, expected in zip(earlier, open_index(folder, manifest()).search(QUERIES, 10), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_ef_search_comes_from_the_manifest(folder: Path) -> None:
    narrow = open_index(folder, manifest(index=replace(PARAMETERS, ef_search=2)))
    exact, _ = narrow.exact(QUERIES, 1)
    assert recall(narrow.search(QUERIES, 1)[0], exact) < 0.95
    assert recall(open_index(folder, manifest()).search(QUERIES, 1)[0], exact) >= 0.98


@pytest.mark.parametrize("k", [1, 10, 100])
def test_every_search_of_an_exact_bundle_is_exact_and_asks_no_graph(tmp_path: Path, k: int) -> None:
    exact = manifest(index=replace(PARAMETERS, ef_search=2, exact=True))
    index = open_index(write(tmp_path, ITEM_VECTORS), exact)
    rows, scores = index.search(QUERIES, k)
    expected = np.argsort(-(QUERIES @ ITEM_VECTORS.T), axis=1, kind="stable")[:, :k]
    assert recall(rows, expected) == 1.0
    np.testing.assert_allclose(scores, (QUERIES @ ITEM_VECTORS.T)[np.arange(100)[:, None], rows], atol=1e-6)
    through_graph = open_index(tmp_path, replace(exact, index=replace(exact.index, exact=False)))
    assert k > 1 or recall(through_graph.search(QUERIES, k)[0], expected) < 0.95
    (tmp_path / LINKS).unlink()  # it takes no memory
    np.testing.assert_array_equal(open_index(tmp_path, exact).search(QUERIES, k)[0], rows)


def test_a_graph_of_another_size_is_refused(tmp_path: Path) -> None:
    write(tmp_path, ITEM_VECTORS, build_links(ITEM_VECTORS[1:]))
    with pytest.raises(BundleDamaged, match=r"links\.npy: .*5999"):
        open_index(tmp_path, manifest())
    build_index(ITEM_VECTORS[1:]).save_index(str(tmp_path / HNSWLIB))
    with pytest.raises(BundleDamaged, match=r"index\.hnsw: 5999 items"):
        open_index(tmp_path, manifest(schema_version=3))


def test_the_manifest_names_the_kind_of_index(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_index(folder, manifest()).ef_search == PARAMETERS.ef_search
    assert open_index(folder, manifest(index=replace(PARAMETERS, exact=True))).ef_search is None
    remote = manifest(index=replace(PARAMETERS, kind="remote"))
    with pytest.raises(BundleTooNew, match="index of kind 'remote', expected one of exact, hnsw"):
        open_index(folder, remote)
    monkeypatch.setitem(vector_index.KINDS, "remote", vector_index.exact_index)
    assert open_index(folder, remote).count == COUNT


def test_a_query_that_the_graph_fails_is_searched_exactly_and_others_as_alone() -> None:
    vectors = ITEM_VECTORS.copy()
    vectors[:5] = unit_vectors(1, seed=9) + 0.01 * vectors[:5]
    vectors[:5] /= np.linalg.norm(vectors[:5], axis=1, keepdims=True)
    links = build_links(vectors)
    links[:5] = NO_LINK
    links[:5, :5] = np.arange(5)  # item 0 is one of those that a search begins with
    index = VectorIndex(CodedVectors(vectors, False, links), 20)
    queries = np.concatenate([vectors[:1], QUERIES[:20]])
    together = index.search(queries, 10)
    np.testing.assert_array_equal(together.rows[0], index.exact(vectors[:1], 10).rows[0])
    alone = index.search(QUERIES[:20], 10).rows
    np.testing.assert_array_equal(together.rows[1:], alone)
    assert (alone != index.exact(QUERIES[:20], 10).rows).any()


PRODUCTS = np.array([[1e30, 88, 1.5, 0], [-1.5, -88, -800, -1e30]], np.float32)


def test_a_sigmoid_never_overflows() -> None:
    found = shown_scores(PRODUCTS, Score("sigmoid"))
    assert found.dtype == np.float32
    expected = [[1, 1, 0.8175745, 0.5], [0.18242552, 6.054602e-39, 0, 0]]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-44)
