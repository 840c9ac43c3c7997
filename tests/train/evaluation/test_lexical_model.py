"""BM25 ranks as `bm25s` does, TF-IDF as scikit-learn does, for any parameters and terms."""

import bm25s
import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from twinspire.protos.lexical import ANALYZERS, Analyzer, Weighting
from twinspire.train.evaluation.lexical_choice import NGRAMS
from twinspire.train.evaluation.lexical_model import CountedTerms, LexicalModel, Rows

ENGLISH, WORDS = ANALYZERS["english"], ANALYZERS["words"]
TFIDF = Weighting("tfidf")


def ranked(
    items: list[str], queries: list[str], k: int, weighting: Weighting, analyzer: Analyzer = ENGLISH
) -> Rows:
    return LexicalModel(CountedTerms(analyzer, items), weighting).rank(queries, k)


@pytest.mark.parametrize("weighting", [Weighting(), TFIDF])
def test_items_rank_by_shared_and_rare_words(weighting: Weighting) -> None:
    items = ["the cat sat on the mat", "a dog sat", "dogs and cats", "quantum chromodynamics"]
    found = ranked(items, ["cats", "sitting dog", "quantum", "zebra", ""], 10, weighting)
    assert found.shape == (5, 4)
    assert {*found[0]} == {0, 2, -1}  # stems, and shorter is nearer
    assert found[0, 0] == 2
    assert found[1, 0] in (1, 2)
    assert found[2].tolist() == [3, -1, -1, -1]
    assert (found[3:] == -1).all()


@pytest.fixture(scope="module")
def drawn() -> tuple[list[list[str]], list[list[str]]]:
    """The words of 300 items, and of 50 queries."""
    generator = np.random.default_rng(7)
    sizes, tokens = generator.integers(1, 60, 300), [f"t{n}" for n in range(40)]
    items = [[tokens[int(n)] for n in generator.zipf(1.6, size) % 40] for size in sizes]
    return items, [[tokens[int(n)] for n in generator.integers(0, 40, 4)] for _ in range(50)]


@pytest.mark.parametrize("k1", [0.6, 2.0])
@pytest.mark.parametrize("b", [0.0, 0.4, 1.0])
def test_bm25_scores_as_another_library_does(
    drawn: tuple[list[list[str]], list[list[str]]], k1: float, b: float
) -> None:
    items, queries = drawn
    terms = CountedTerms(WORDS, map(" ".join, items))
    found = LexicalModel(terms, Weighting("bm25", k1, b)).rank(map(" ".join, queries), k=20)
    other = bm25s.BM25(k1=k1, b=b)
    other.index(items, show_progress=False)
    for query, rows in zip(queries, found, strict=True):
        scores = other.get_scores(query)
        expected = np.sort(scores)[::-1][:20]
        np.testing.assert_allclose(np.where(rows < 0, 0, scores[rows]), expected, rtol=1e-5)
        assert (scores[rows[rows >= 0]] > 0).all()


@pytest.mark.parametrize("analyzer", [WORDS, *NGRAMS.values()])
def test_tfidf_scores_as_another_library_does(
    drawn: tuple[list[list[str]], list[list[str]]], analyzer: Analyzer
) -> None:
    items, queries = ([" ".join(each) for each in side] for side in drawn)
    other = TfidfVectorizer(analyzer=analyzer.tokens, sublinear_tf=True)
    matrix = other.fit_transform(items)
    scores = (other.transform(queries) @ matrix.T).toarray()
    for row, rows in zip(scores, ranked(items, queries, 20, TFIDF, analyzer), strict=True):
        expected = np.sort(row)[::-1][:20]
        np.testing.assert_allclose(np.where(rows < 0, 0, row[rows]), expected, rtol=1e-5)


def test_of_equal_items_the_first_comes_first() -> None:
    items = ["x", "a b", "y", "a b", "a b"]
    assert ranked(items, ["a"], 2, Weighting(), WORDS).tolist() == [[1, 3]]
    assert ranked(items, ["a"], 9, Weighting(), WORDS).tolist() == [[1, 3, 4, -1, -1]]


def test_ngrams_find_a_part_of_a_word() -> None:
    items = ["uninstall a package", "list the packages", "パッケージを削除"]
    found = ranked(items, ["installed", "削除"], 1, TFIDF, NGRAMS["1- to 3-grams"])
    assert found.tolist() == [[0], [2]]
    assert ranked(items, ["installed"], 1, TFIDF, WORDS).tolist() == [[-1]]
