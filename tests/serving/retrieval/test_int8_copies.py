"""Which int8 copies are near a query: the compiled search beside NumPy's."""

from typing import Any

import numpy as np
import pytest

from serving.retrieval import int8_copies
from serving.retrieval.int8_copies import PlainCopies, Rows, SplitCopies, Vectors
from serving.retrieval.int8_scan import Int8Scan

needs_compiler = pytest.mark.skipif(int8_copies.compiled is None, reason="not compiled here: make setup")
LEVELS: list[str] = [] if int8_copies.compiled is None else int8_copies.compiled.levels()
DIMENSIONS = [1, 2, 7, 31, 32, 33, 63, 64, 65, 96, 127, 128, 130, 200, 256, 300]


def copies_of(random: np.random.Generator, count: int, dimension: int, kind: str) -> tuple[Any, Vectors]:
    """Copies int8 (N, D) and their scales (N,)."""
    copies = np.clip(np.rint(random.standard_normal((count, dimension)) * 40), -127, 127).astype(np.int8)
    scales = random.uniform(0.001, 0.002, count).astype(np.float32)
    if kind == "extreme":
        copies = random.choice(np.array([-127, 127], np.int8), (count, dimension))
    elif kind == "ties":
        copies, scales[:] = copies[random.integers(0, 5, count)], 0.001
    elif kind == "zeros":
        copies[::2], scales[::3] = 0, 0
    return copies, scales


def put(copies: Any, scales: Vectors) -> tuple[SplitCopies, PlainCopies]:
    split, plain = SplitCopies(*copies.shape), PlainCopies(*copies.shape)
    for each in (split, plain):
        for start in range(0, len(copies), 1000):
            rows = slice(start, start + 1000)
            each.put(rows, copies[rows], scales[rows])
    return split, plain


def near(split: SplitCopies, query: Any, k: int, margin: float, rows: Rows | None, level: str) -> Rows:
    padded = np.append(query, np.zeros(len(query) % 2, np.int8))
    parts = (split.upper, split.lower, split.scales, split.spreads)
    return np.frombuffer(int8_copies.compiled.near(*parts, padded, rows, k, margin, level), np.int64)


@needs_compiler
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", ["usual", "extreme", "ties", "zeros"])
def test_all_levels_find_what_numpy_finds(kind: str, level: str) -> None:
    random = np.random.default_rng(len(kind))
    for dimension in DIMENSIONS:
        count = int(random.integers(1, 2000))
        copies, scales = copies_of(random, count, dimension, kind)
        split, plain = put(copies, scales)
        other = random.integers(-127, 128, dimension).astype(np.int8)
        queries = [copies[0], other, np.zeros(dimension, np.int8)]
        for query in queries:
            for share in (None, 0.02, 0.6):
                rows = None if share is None else np.flatnonzero(random.random(count) < share)
                most = count if rows is None else len(rows)
                if not most:
                    continue
                k = int(random.integers(1, min(most, 50) + 1))
                margin = float(random.choice([0, 0.5, 20, np.inf]))
                values = (copies @ query.astype(np.int32)).astype(np.float32) * scales
                searched = np.arange(count) if rows is None else rows
                limit = np.sort(values[searched])[-k] - np.float32(margin)
                expected = searched[values[searched] >= limit].tolist()
                assert near(split, query, k, margin, rows, level).tolist() == expected
                assert plain.near(query, k, margin, rows).tolist() == expected
                if rows is not None:
                    for each in (split, plain):
                        assert rows[each.subset(rows).near(query, k, margin)].tolist() == expected


@needs_compiler
@pytest.mark.parametrize("level", LEVELS)
def test_most_lower_halves_are_left_out_without_a_loss(level: str) -> None:
    """Rows ascend and descend by their values, and the best are the last of many."""
    random = np.random.default_rng(3)
    copies, scales = copies_of(random, 20_000, 128, "usual")
    query = copies[77]
    values = (copies @ query.astype(np.int32)).astype(np.float32) * scales
    for order in (np.argsort(values), np.argsort(-values), np.arange(len(values))):
        split, plain = put(copies[order], scales[order])
        found = near(split, query, 10, 3.0, None, level)
        assert found.tolist() == plain.near(query, 10, 3.0).tolist()
        assert 10 <= len(found) < 1000


def test_a_scan_finds_the_same_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(4)
    vectors = random.standard_normal((3000, 37)).astype(np.float32)
    queries = random.standard_normal((5, 37)).astype(np.float32)
    rows = np.flatnonzero(random.random(3000) < 0.5)

    def answers() -> list[Any]:
        scan = Int8Scan(vectors)
        found = [
            scan.search(queries, 10),
            scan.search(queries, 10, rows),
            scan.subset(rows).search(queries, 10),
        ]
        return [array.tolist() for both in found for array in both]

    compiled = answers()
    monkeypatch.setattr(int8_copies, "compiled", None)
    assert answers() == compiled


def arguments() -> dict[str, Any]:
    split, _ = put(*copies_of(np.random.default_rng(0), 50, 10, "usual"))
    return {
        "upper": split.upper,
        "lower": split.lower,
        "scales": split.scales,
        "spreads": split.spreads,
        "query": np.ones(10, np.int8),
        "rows": np.arange(20),
        "k": 3,
        "margin": 1.0,
    }


HOSTILE: dict[str, Any] = {
    "fewer lower halves": ("lower", lambda given: given["lower"][:-1]),
    "narrower lower halves": ("lower", lambda given: given["lower"][:, :-1].copy()),
    "flat halves": ("upper", lambda given: given["upper"].ravel()),
    "halves with gaps": ("upper", lambda given: given["upper"][:, ::2]),
    "signed halves": ("upper", lambda given: given["upper"].view(np.int8)),
    "no array": ("upper", lambda given: [1, 2, 3]),
    "none": ("lower", lambda given: None),
    "fewer scales": ("scales", lambda given: given["scales"][:-1]),
    "doubles": ("scales", lambda given: given["scales"].astype(np.float64)),
    "big-endian scales": ("scales", lambda given: given["scales"].astype(">f4")),
    "fewer spreads": ("spreads", lambda given: given["spreads"][1:]),
    "a longer query": ("query", lambda given: np.ones(12, np.int8)),
    "a shorter query": ("query", lambda given: np.ones(8, np.int8)),
    "a query of floats": ("query", lambda given: np.ones(10, np.float32)),
    "short integers": ("rows", lambda given: np.arange(20, dtype=np.int32)),
    "unsigned rows": ("rows", lambda given: np.arange(20, dtype=np.uint64)),
    "a table of rows": ("rows", lambda given: np.arange(20).reshape(4, 5)),
    "a row too high": ("rows", lambda given: np.array([1, 2, 3, 50])),
    "a row far too high": ("rows", lambda given: np.array([1, 2, 3, 2**62])),
    "a row below 0": ("rows", lambda given: np.array([-1, 2, 3, 4])),
    "descending rows": ("rows", lambda given: np.array([5, 4, 3, 2])),
    "a row twice": ("rows", lambda given: np.array([1, 2, 2, 3])),
    "no rows": ("rows", lambda given: np.arange(0)),
    "no items wanted": ("k", lambda given: 0),
    "too many wanted": ("k", lambda given: 21),
    "far too many wanted": ("k", lambda given: 2**62),
    "a margin below 0": ("margin", lambda given: -1.0),
    "no margin": ("margin", lambda given: float("nan")),
}


@needs_compiler
@pytest.mark.parametrize("case", HOSTILE)
def test_arguments_that_do_not_fit_are_refused(case: str) -> None:
    given = arguments()
    int8_copies.compiled.near(*given.values())
    name, change = HOSTILE[case]
    given[name] = change(given)
    with pytest.raises(ValueError, match="expected"):
        int8_copies.compiled.near(*given.values())


@needs_compiler
def test_bad_rows_in_any_block_are_refused() -> None:
    copies = np.zeros((3000, 2), np.int8)
    split, _ = put(copies, np.ones(3000, np.float32))
    for place in (255, 256, 257, 511, 1999):
        for value in (3000, -1, 0):
            rows = np.arange(2000)
            rows[place] = value
            with pytest.raises(ValueError, match="ascending"):
                split.near(np.ones(2, np.int8), 1, 0.0, rows)


@needs_compiler
def test_an_unknown_level_is_refused() -> None:
    assert LEVELS[-1] == "plain"
    with pytest.raises(ValueError, match="this processor has no sse9"):
        int8_copies.compiled.near(*arguments().values(), "sse9")
