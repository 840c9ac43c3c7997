"""BM25 ranks as `bm25s` does, for any k1 and b, and takes those that are best on validation."""

import bm25s
import numpy as np
import pytest

from protos.lexical import ANALYZERS
from train.evaluation.bm25 import DEFAULT_B, DEFAULT_K1, K1, B, Bm25, Rows

ENGLISH = ANALYZERS["english"]


def ranked(items: list[str], queries: list[str], k: int) -> Rows:
    return Bm25(ENGLISH.analyze(items)).rank([*ENGLISH.analyze(queries)], k)


def test_bm25_ranks_by_shared_and_rare_words() -> None:
    items = ["the cat sat on the mat", "a dog sat", "dogs and cats", "quantum chromodynamics"]
    found = ranked(items, ["cats", "sitting dog", "quantum", "zebra", ""], k=10)
    assert found.shape == (5, 4)
    assert {*found[0]} == {0, 2, -1}  # stems, and shorter is nearer
    assert found[0, 0] == 2
    assert found[1, 0] in (1, 2)
    assert found[2].tolist() == [3, -1, -1, -1]
    assert (found[3:] == -1).all()


@pytest.mark.parametrize("items", [["...", "?"], ["", ""], ["the", "of the"]])
def test_bm25_of_items_without_words_finds_nothing(items: list[str]) -> None:
    assert (ranked(items, ["a query", ""], k=2) == -1).all()


@pytest.mark.parametrize("k1", [0.6, 2.0])
@pytest.mark.parametrize("b", [0.0, 0.4, 1.0])
def test_changed_parameters_give_the_ranking_of_a_new_index(k1: float, b: float) -> None:
    generator = np.random.default_rng(7)
    sizes, tokens = generator.integers(1, 60, 300), [f"t{n}" for n in range(40)]
    drawn = [[tokens[int(n)] for n in generator.zipf(1.6, size) % 40] for size in sizes]
    queries = [[tokens[int(n)] for n in generator.integers(0, 40, 4)] for _ in range(50)]
    model = Bm25(drawn)
    model.set(k1, b)
    fresh = bm25s.BM25(k1=k1, b=b)
    fresh.index(drawn, show_progress=False)
    found = model.rank(queries, k=20)
    for query, rows in zip(queries, found, strict=True):
        scores = fresh.get_scores(query)
        expected = np.sort(scores)[::-1][:20]
        np.testing.assert_allclose(np.where(rows < 0, 0, scores[rows]), expected, rtol=1e-5)
        assert (scores[rows[rows >= 0]] > 0).all()


def test_of_equal_documents_the_first_comes_first() -> None:
    documents = [["x"], ["a", "b"], ["y"], ["a", "b"], ["a", "b"]]
    assert Bm25(documents).rank([["a"]], k=2).tolist() == [[1, 3]]
    assert Bm25(documents).rank([["a"]], k=9).tolist() == [[1, 3, 4, -1, -1]]


def test_a_length_that_tells_nothing_is_found_out() -> None:
    """The answer is the long document; only b = 0 does not hold its length against it."""
    filler = [f"f{n}" for n in range(30)]
    documents = [["a", "c"], ["a", "a", "a", *filler]]
    model = Bm25(documents)
    assert model.rank([["a"]], 2)[0, 0] == 0
    model.tune([["a"]], lambda rows: float(rows[0, 0] == 1))
    assert model.b < DEFAULT_B
    assert model.rank([["a"]], 2)[0, 0] == 1


def test_without_a_difference_the_defaults_stay() -> None:
    model = Bm25([["a"], ["b"]])
    model.tune([["a"]], lambda rows: 0.5)
    assert (model.k1, model.b) == (DEFAULT_K1, DEFAULT_B)
    assert DEFAULT_K1 in K1
    assert DEFAULT_B in B
