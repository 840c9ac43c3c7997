"""An index finds what exact search finds, at any k, among all items or some of them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.helpers.tiny import build_index, build_links, tiny_manifest
from tests.helpers.tiny_towers import TinyTower
from twinspire.protos.bundle import HNSWLIB, LINKS, VECTORS, IndexParameters, Manifest
from twinspire.protos.errors import BundleDamaged, BundleTooNew
from twinspire.protos.nearest.links import NO_LINK, Links
from twinspire.serving.index import vector_index
from twinspire.serving.index.hnsw_index import HnswIndex
from twinspire.serving.index.vector_index import VectorIndex, open_index

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


@pytest.mark.parametrize("k", [1, 10, 32, 33, 64, 100])
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


def test_exact_search_agrees_with_sorting_everything(opened: Open) -> None:
    rows, scores = opened().exact(QUERIES, 50)
    cosines = QUERIES @ ITEM_VECTORS.T
    expected = np.argsort(-cosines, axis=1, kind="stable")[:, :50]
    np.testing.assert_allclose(scores, np.take_along_axis(cosines, expected, 1), atol=1e-6)
    assert recall(rows, expected) == 1.0


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


def test_more_than_the_catalogue_gives_all_of_it(opened: Open) -> None:
    rows, _ = opened().search(QUERIES[:2], COUNT + 1)
    np.testing.assert_array_equal(np.sort(rows, axis=1), [np.arange(COUNT)] * 2)


def test_what_the_graph_cannot_reach_is_found_exactly(tmp_path: Path) -> None:
    links = build_links(ITEM_VECTORS)
    links[:] = NO_LINK
    index = open_index(
        write(tmp_path, ITEM_VECTORS, links), manifest(index=replace(PARAMETERS, ef_search=20))
    )
    rows, _ = index.search(QUERIES, 10)
    np.testing.assert_array_equal(rows, index.exact(QUERIES, 10)[0])


def test_a_graph_of_another_size_is_refused(tmp_path: Path) -> None:
    write(tmp_path, ITEM_VECTORS, build_links(ITEM_VECTORS[1:]))
    with pytest.raises(BundleDamaged, match=r"links\.npy: .*5999"):
        open_index(tmp_path, manifest())
    build_index(ITEM_VECTORS[1:]).save_index(str(tmp_path / HNSWLIB))
    with pytest.raises(BundleDamaged, match=r"index\.hnsw: 5999 items"):
        open_index(tmp_path, manifest(schema_version=3))


def test_vectors_of_another_type_are_refused(tmp_path: Path) -> None:
    write(tmp_path, ITEM_VECTORS)
    for wrong in (ITEM_VECTORS.astype(np.float64), np.array([None]), ITEM_VECTORS[:, 1:]):
        np.save(tmp_path / VECTORS, wrong)
        with pytest.raises(BundleDamaged, match=r"vectors\.npy: "):
            open_index(tmp_path, manifest())


def test_something_else_than_a_graph_is_refused(tmp_path: Path) -> None:
    write(tmp_path, ITEM_VECTORS)
    whole = (tmp_path / LINKS).read_bytes()
    for content in (b"", whole[:-1], whole[:-4], whole[: len(whole) // 2], whole[::-1]):
        (tmp_path / LINKS).write_bytes(content)
        with pytest.raises(BundleDamaged, match=r"links\.npy: "):
            open_index(tmp_path, manifest())


def brute_force(vectors: Vectors, queries: Vectors, k: int, rows: npt.NDArray[np.int64]) -> Vectors:
    """The best scores of each query among some rows, best first."""
    scores = queries @ vectors[rows].T
    best: Vectors = -np.sort(-scores, axis=1)[:, :k]
    return best


@pytest.mark.parametrize("share", [0.0005, 0.01, 0.2, 0.6, 0.9, 1.0])
def test_the_best_of_some_rows_are_found(opened: Open, share: float) -> None:
    mask = np.random.default_rng(3).random(COUNT) < share
    mask[7] = True
    rows = np.flatnonzero(mask)
    found, scores = opened().exact(QUERIES, 10, rows)
    assert found.shape == scores.shape == (100, min(10, len(rows)))
    assert np.isin(found, rows).all()
    np.testing.assert_allclose(scores, brute_force(ITEM_VECTORS, QUERIES, 10, rows), atol=1e-5)


def test_of_no_rows_none_is_found(opened: Open) -> None:
    rows, scores = opened().exact(QUERIES, 10, np.zeros(0, np.int64))
    assert rows.shape == scores.shape == (100, 0)


class Remote(VectorIndex):
    """Stands for an index of another kind."""


def test_the_manifest_names_the_kind_of_index(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(open_index(folder, manifest())) is HnswIndex
    assert type(open_index(folder, manifest(index=replace(PARAMETERS, exact=True)))) is VectorIndex
    remote = manifest(index=replace(PARAMETERS, kind="remote"))
    with pytest.raises(BundleTooNew, match="index of kind 'remote', expected one of exact, hnsw"):
        open_index(folder, remote)
    monkeypatch.setitem(vector_index.KINDS, "remote", (__name__, "Remote"))
    assert open_index(folder, remote).count == COUNT


def test_a_query_that_the_graph_fails_is_searched_exactly_and_others_as_alone() -> None:
    vectors = ITEM_VECTORS.copy()
    vectors[:5] = unit_vectors(1, seed=9) + 0.01 * vectors[:5]
    vectors[:5] /= np.linalg.norm(vectors[:5], axis=1, keepdims=True)
    links = build_links(vectors)
    links[:5] = NO_LINK
    links[:5, :5] = np.arange(5)  # item 0 is one of those that a search begins with
    index = HnswIndex.of(vectors, links, 20, has_padding_dim=False)
    queries = np.concatenate([vectors[:1], QUERIES[:20]])
    together = index.search(queries, 10)
    np.testing.assert_array_equal(together.rows[0], index.exact(vectors[:1], 10).rows[0])
    alone = index.search(QUERIES[:20], 10).rows
    np.testing.assert_array_equal(together.rows[1:], alone)
    assert (alone != index.exact(QUERIES[:20], 10).rows).any()
