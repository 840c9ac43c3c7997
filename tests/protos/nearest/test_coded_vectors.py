"""Searches by codes find what exact search in float32 finds, with the arithmetic of any processor."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.tiny import build_links
from twinspire.protos.nearest import coded_vectors
from twinspire.protos.nearest.coded_vectors import CodedVectors
from twinspire.protos.nearest.links import NO_LINK
from twinspire.protos.nearest.search import exact_search
from twinspire.protos.nearest.vectors import Vectors

_kernel = pytest.importorskip("twinspire.protos.nearest._kernel", exc_type=ImportError)
RNG = np.random.default_rng(0)
FASTEST = 99
VARIANTS = [*range(_kernel.choose(FASTEST) + 1)]


def vectors_of(kind: str, count: int = 3000, dimension: int = 24) -> Vectors:
    vectors = np.random.default_rng(1).standard_normal((count, dimension)).astype(np.float32)
    if kind == "alike":  # codes of most are equal
        vectors = vectors[:1] + 1e-3 * vectors
    elif kind == "repeated":
        vectors = vectors[RNG.integers(0, 40, count)]
    elif kind == "of many lengths":
        vectors *= np.exp(RNG.standard_normal((count, 1)) * 3).astype(np.float32)
    elif kind == "with one large coordinate":
        vectors[:, 3] *= 1000
    elif kind == "with zeros":
        vectors[::3] = 0
    return vectors


KINDS = ["usual", "alike", "repeated", "of many lengths", "with one large coordinate", "with zeros"]
UNIT = vectors_of("usual") / np.linalg.norm(vectors_of("usual"), axis=1, keepdims=True)
QUERIES = UNIT[:100] + 0.3 * np.random.default_rng(2).standard_normal((100, 24)).astype(np.float32)
GRAPH = CodedVectors(UNIT, links=build_links(UNIT))


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> Iterator[int]:
    """One of the variants of the arithmetic that this processor has."""
    assert _kernel.choose(request.param) == request.param
    yield request.param
    _kernel.choose(FASTEST)


def recall(found: np.ndarray, k: int, mask: np.ndarray | None = None) -> float:
    allowed = np.arange(len(UNIT)) if mask is None else np.flatnonzero(mask)
    places, _ = exact_search(QUERIES, UNIT[allowed], k)
    best = allowed[places].tolist()
    return float(np.mean([len({*a} & {*b}) / k for a, b in zip(found.tolist(), best, strict=True)]))


@pytest.mark.parametrize("kind", KINDS)
@given(k=st.integers(1, 60), share=st.sampled_from([0.002, 0.1, 0.5, 1.0]), seed=st.integers(0, 99))
@settings(max_examples=12, deadline=None)
def test_a_comparison_finds_the_best(kind: str, k: int, share: float, seed: int) -> None:
    vectors, random = vectors_of(kind), np.random.default_rng(seed)
    queries = random.standard_normal((3, vectors.shape[1])).astype(np.float32)
    rows = np.flatnonzero(random.random(len(vectors)) < share)
    k = min(k, len(rows))
    if k == 0:
        return
    _, expected = exact_search(queries, vectors[rows], k)
    for coded in (CodedVectors(vectors), CodedVectors(vectors, has_codes=False)):
        found, products = coded.exact(queries, k, rows)
        np.testing.assert_allclose(products, expected, rtol=1e-5, atol=1e-5 * np.abs(vectors).max())
        assert np.isin(found, rows).all()
        assert all(len({*each}) == k for each in found.tolist())
        own = np.einsum("bd,bkd->bk", queries, vectors[found])
        np.testing.assert_allclose(own, products, rtol=1e-4, atol=1e-4 * np.abs(vectors).max())


@pytest.mark.parametrize("queries", [1, 7, 100])
def test_all_are_compared_alike_in_batches_of_any_size(queries: int) -> None:
    rows, products = GRAPH.exact(QUERIES[:queries], 20)
    expected_rows, expected = exact_search(QUERIES[:queries], UNIT, 20)
    np.testing.assert_allclose(products, expected, atol=1e-5)
    np.testing.assert_allclose(np.einsum("bd,bkd->bk", QUERIES[:queries], UNIT[rows]), expected, atol=1e-5)
    assert rows.shape == expected_rows.shape
    assert GRAPH.exact(QUERIES[:queries], len(UNIT) + 1)[0].shape == (queries, len(UNIT))
    assert GRAPH.exact(QUERIES[:queries], 5, np.empty(0, np.int64))[0].shape == (queries, 0)


def test_equal_items_are_ordered_by_row() -> None:
    vectors = np.repeat(vectors_of("usual", 40), 50, axis=0)
    (found,), _ = CodedVectors(vectors).exact(vectors[:1], 50)
    assert found.tolist() == [*range(50)]


def test_a_query_of_zeros_is_as_near_to_all() -> None:
    (found,), (products,) = GRAPH.exact(np.zeros((1, 24), np.float32), 5)
    assert (found.tolist(), products.tolist()) == ([0, 1, 2, 3, 4], [0.0] * 5)
    assert GRAPH.search(np.zeros((1, 24), np.float32), 5, 40)[2] == 5


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_shows_in_the_scores(value: float) -> None:
    query, items = QUERIES[:1].copy(), UNIT.copy()
    query[0, 3] = items[2000, 3] = value
    for rows, scores, *_ in (GRAPH.exact(query, 5), GRAPH.search(query, 5, 40)):
        assert ((rows >= 0) & (rows < len(UNIT))).all()
        assert not np.isfinite(scores[0, 0])
    with pytest.raises(ValueError, match="rows 0 to 2999: not all numbers are finite"):
        CodedVectors(items)


def test_an_item_as_a_query_is_compared_with_its_last_coordinate() -> None:
    vectors = np.concatenate([0.2 * UNIT, RNG.standard_normal((len(UNIT), 1)).astype(np.float32)], axis=1)
    coded = CodedVectors(vectors, has_padding_dim=True)
    for queries in (vectors[:3], vectors[:3] * (np.arange(25) < 24)):
        rows, products = coded.exact(queries, 10)
        np.testing.assert_allclose(products, exact_search(queries, vectors, 10)[1], atol=1e-5)
        np.testing.assert_allclose(np.einsum("bd,bkd->bk", queries, vectors[rows]), products, atol=1e-5)


@pytest.mark.parametrize("length", [64, 128, 192, 512, 65_536])
def test_all_variants_compute_the_products_of_codes_exactly(variant: int, length: int) -> None:
    """Without a margin, only the item whose code has the largest product is compared in float32."""
    random = np.random.default_rng(3)
    codes = random.integers(-127, 128, (60, length)).astype(np.int8)
    codes[0], codes[1] = 127, -127  # the largest sums
    queries = random.integers(-127, 128, (40, length)).astype(np.float32)
    queries[:, 0], queries[0], queries[1] = 127, 127, -127
    products = queries.astype(np.int64) @ codes.T.astype(np.int64)
    rows, scores = np.empty((40, 1), np.int64), np.empty((40, 1), np.float32)
    vectors = np.zeros((60, length), np.float32)
    _kernel.search(
        codes, np.ones(60, np.float32), vectors, queries, rows, scores, None, None, None, 1, 1, -1, 0.0, 0.0
    )
    np.testing.assert_array_equal(rows[:, 0], products.argmax(axis=1))


def test_the_graph_finds_most_of_the_best(variant: int) -> None:
    for k, ef in ((1, 64), (10, 64), (50, 100)):
        rows, scores, least = GRAPH.search(QUERIES, k, ef)
        assert least == k
        assert recall(rows, k) >= 0.95
        assert np.all(np.diff(scores, axis=1) <= 0)
        np.testing.assert_allclose(scores, np.einsum("bd,bkd->bk", QUERIES, UNIT[rows]), atol=1e-5)


def test_all_variants_walk_through_the_same_items() -> None:
    found = []
    for name in VARIANTS:
        _kernel.choose(name)
        found.append(GRAPH.search(QUERIES, 10, 64))
    for rows, scores, _ in found:  # the same products of codes, and then the same arithmetic
        np.testing.assert_array_equal(rows, found[0][0])
        np.testing.assert_array_equal(scores, found[0][1])


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_only_items_that_are_allowed_are_found(share: float) -> None:
    mask = RNG.random(len(UNIT)) < share
    rows, _, least = GRAPH.search(QUERIES, 10, 64, mask)
    assert least == 10 and mask[rows].all()
    assert recall(rows, 10, mask) >= 0.95
    nearest = np.unique(exact_search(QUERIES, UNIT, 20)[0])
    far = np.ones(len(UNIT), np.bool_)
    far[nearest] = False  # filter and queries contradict each other
    rows, _, _ = GRAPH.search(QUERIES, 10, 64, far)
    assert far[rows].all() and recall(rows, 10, far) >= 0.95


def test_where_too_few_are_reached_the_rest_is_marked() -> None:
    one = np.zeros(len(UNIT), np.bool_)
    one[7] = True
    rows, _, least = GRAPH.search(QUERIES, 3, 64, one)
    assert least == 1
    assert {tuple(each) for each in rows.tolist()} == {(7, -1, -1)}
    alone = CodedVectors(UNIT, links=np.full((len(UNIT), 4), NO_LINK, np.uint32))
    rows, _, least = alone.search(QUERIES, 3, 64)
    assert least == 1 and (rows[:, 1:] == -1).all()


def test_a_search_that_takes_too_many_steps_gives_up() -> None:
    rows, _, least = GRAPH.search(QUERIES, 10, 64, most_steps=5)
    assert least == 0 and (rows == -1).all()
    for found, expected in zip(
        GRAPH.search(QUERIES, 10, 64, most_steps=10_000), GRAPH.search(QUERIES, 10, 64), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_batches_and_threads_do_not_disturb_each_other() -> None:
    together, scores, _ = GRAPH.search(QUERIES, 10, 64)
    with ThreadPoolExecutor(8) as pool:
        alone = list(pool.map(lambda n: GRAPH.search(QUERIES[n : n + 1], 10, 64), range(len(QUERIES))))
    for n, (rows, own, _) in enumerate(alone):
        np.testing.assert_array_equal(rows[0], together[n])
        np.testing.assert_array_equal(own[0], scores[n])


def test_links_that_lead_nowhere_end_no_process() -> None:
    links = RNG.integers(0, 2**32, (len(UNIT), 8), dtype=np.uint32)
    links[::2] = RNG.integers(0, len(UNIT), (len(UNIT) // 2, 8), dtype=np.uint32)
    rows, _, _ = CodedVectors(UNIT, links=links).search(QUERIES, 5, 30)
    assert ((rows >= -1) & (rows < len(UNIT))).all()


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"codes": np.zeros((3000, 60), np.int8)}, "codes"),
        ({"codes": np.zeros((3000, 0), np.int8)}, "codes"),
        ({"vectors": UNIT[1:]}, "vectors"),
        ({"links": np.zeros((2999, 8), np.uint32)}, "links"),
        ({"queries": QUERIES[:, 1:].copy()}, "queries"),
        ({"rows": np.empty((100, 4), np.int64)}, "rows, scores"),
        ({"scores": np.empty((100, 4), np.float32)}, "rows, scores"),
        ({"some": np.array([3000])}, "some"),
        ({"some": np.array([-1])}, "some"),
        ({"allowed": np.ones(2999, np.bool_)}, "allowed"),
        ({"k": 0}, "k"),
        ({"ef": 4}, "ef"),
        ({"scales": np.empty(0, np.float32)}, "scales"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(changed: dict[str, object], match: str) -> None:
    arguments = {
        "codes": GRAPH._codes, "scales": GRAPH._scales, "vectors": UNIT, "queries": QUERIES,
        "rows": np.empty((100, 5), np.int64), "scores": np.empty((100, 5), np.float32), "some": None,
        "links": GRAPH.links, "allowed": None, "k": 5, "ef": 9, "most_steps": -1,
        "max_residual": 0.0, "max_norm": 0.0,
    }  # fmt: skip
    assert _kernel.search(*arguments.values()) == 5
    with pytest.raises(ValueError, match=match):
        _kernel.search(*{**arguments, **changed}.values())


def test_numpy_takes_the_place_of_what_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = RNG.random(len(UNIT)) < 0.1
    rows = np.flatnonzero(mask)
    expected = GRAPH.exact(QUERIES, 10, rows)
    monkeypatch.setattr(coded_vectors, "compiled", None)
    plain = CodedVectors(UNIT, links=GRAPH.links)
    for found, scores in (plain.exact(QUERIES, 10, rows), plain.search(QUERIES, 10, 64, mask)[:2]):
        np.testing.assert_allclose(scores, expected[1], atol=1e-5)
        assert mask[found].all()
    assert plain.search(QUERIES, 10, 64)[2] == 10
    found, _, least = plain.search(QUERIES, 10, 64, np.arange(len(UNIT)) < 3)
    assert least == 3 and (found[:, 3:] == -1).all()


def test_a_search_leaves_no_reference_behind() -> None:
    GRAPH.search(QUERIES, 5, 20)
    held = GRAPH._codes, GRAPH.vectors, GRAPH.links
    before = [*map(sys.getrefcount, held)]
    for _ in range(200):
        GRAPH.search(QUERIES[:1], 5, 20)
        GRAPH.exact(QUERIES[:1], 5)
    assert [*map(sys.getrefcount, held)] == before
