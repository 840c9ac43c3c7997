"""One score of vectors and words."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from tests.helpers.lexical import HYBRID, lexical_score, postings_of_texts, weights_of_texts
from twinspire.export.hybrid.postings import postings_of
from twinspire.protos.bundle import Hybrid
from twinspire.protos.hybrid import fusion
from twinspire.protos.hybrid.fusion import Fusion, FusionQuery, Ranked, fuse_numpy
from twinspire.protos.hybrid.lexical_index import LexicalIndex
from twinspire.protos.hybrid.term_weights import weighting_of
from twinspire.protos.lexical import Analyzer
from twinspire.train.evaluation.lexical_model import CountedTerms, LexicalModel

ITEMS, DIMENSION = 400, 16
WORDS = [f"word{n}" for n in range(200)]
WIDE = replace(HYBRID, lexical_candidates=ITEMS, most_postings=10**6)  # all items are candidates
NEEDS_COMPILED = pytest.mark.skipif(
    fusion.compiled is None, reason="the fused search is not compiled here: make setup"
)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    rng = np.random.default_rng(1)
    shares = 1 / np.arange(1, len(WORDS) + 1)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 20), p=shares / shares.sum())) for _ in range(ITEMS)]


@pytest.fixture(scope="module")
def vectors() -> Any:
    found = np.random.default_rng(2).normal(size=(ITEMS, DIMENSION)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.fixture(params=[pytest.param("compiled", marks=NEEDS_COMPILED), "numpy"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "numpy":
        monkeypatch.setattr(fusion, "compiled", None)
    return str(request.param)


def made(texts: list[str], vectors: Any, hybrid: Hybrid) -> Fusion:
    return Fusion(LexicalIndex(postings_of_texts(texts, hybrid), hybrid), vectors)


def asked(rng: np.random.Generator, vectors: Any, mask: Any = None, dense: int = 20) -> tuple[Any, Any, Any]:
    """A query's vector, and what the dense search finds for it: rows and inner products."""
    vector = rng.normal(size=DIMENSION).astype(np.float32)
    scores = vectors @ vector
    rows = np.argsort(-scores, kind="stable")
    rows = rows[: dense if mask is None else ITEMS]
    rows = rows if mask is None else rows[mask[rows]][:dense]
    return vector, rows.tolist(), scores[rows].tolist()


def test_the_score_is_the_convex_sum_of_both_sides(texts: list[str], vectors: Any, kind: str) -> None:
    found, rng = made(texts, vectors, WIDE), np.random.default_rng(3)
    idf, weights = weights_of_texts(texts, WIDE)
    for _ in range(40):
        words = [*rng.choice([*WORDS, "unknown"], rng.integers(1, 8))]
        vector, rows, scores = asked(rng, vectors, dense=ITEMS)
        dense = vectors @ vector
        lexical = np.array([lexical_score(idf, each, words) for each in weights])
        fused = 0.6 * dense + 0.4 * lexical
        best = np.argsort(-fused)[:10]
        ranked = found.rank(FusionQuery(found.index.terms(" ".join(words)), vector, rows, scores), 10)
        assert ranked[0] == best.tolist()
        for values, expected in zip(ranked[1:], (fused, dense, lexical, 0 * dense), strict=True):
            np.testing.assert_allclose(values, expected[best], atol=2e-6)


def test_clicked_items_are_candidates_and_get_their_prior(texts: list[str], vectors: Any, kind: str) -> None:
    hybrid = replace(HYBRID, most_postings=0, prior_weight=0.5)
    priors = {"word7 word9": {3: 0.9, 150: 0.2, 399: 0.4}}
    index = LexicalIndex(postings_of_texts(texts, hybrid, priors), hybrid)
    found, dense = Fusion(index, vectors), vectors @ vectors[0]
    query = FusionQuery(index.terms(" Word7  WORD9"), vectors[0], [3, 8], dense[[3, 8]].tolist())
    rows, scores, *parts = found.rank(query, 10)
    assert {*rows} == {3, 8, 150, 399}
    by_row = dict(zip(rows, zip(scores, *parts, strict=True), strict=True))
    for row, prior in {3: 0.9, 8: 0.0, 150: 0.2, 399: 0.4}.items():
        score, own, lexical, shown = by_row[row]
        assert (own, shown) == pytest.approx((dense[row], prior), abs=1e-6)
        assert score == pytest.approx(0.6 * own + 0.4 * lexical + 0.5 * shown, abs=1e-6)
    mask = np.ones(ITEMS, np.bool_)
    mask[150] = False
    assert {*found.rank(query._replace(mask=mask), 10)[0]} == {3, 8, 399}
    without = found.rank(query, 10, weight=0.4)  # as BM25 is measured alone
    assert (sorted(without[0]), without[4]) == ([3, 8], [0, 0])
    other = index.terms("word7 word9 word9")
    plain = made(texts, vectors, replace(hybrid, prior_weight=0.0))
    unseen = query._replace(terms=other)
    assert found.rank(unseen, 10) == plain.rank(
        unseen._replace(terms=plain.index.terms("word7 word9 word9")), 10
    )
    assert not found._sums.any()


@NEEDS_COMPILED
@pytest.mark.parametrize("scoring", ["bm25", "tfidf"])
def test_compiled_and_numpy_find_the_same(texts: list[str], vectors: Any, scoring: Any) -> None:
    rng = np.random.default_rng(4)
    queries = [" ".join(rng.choice(WORDS, rng.integers(0, 30))) for _ in range(300)]
    clicks = [np.unique(rng.integers(0, ITEMS, rng.integers(1, 100))).tolist() for _ in queries]
    priors = {
        query: {row: float(rng.random()) for row in rows} for query, rows in zip(queries, clicks, strict=True)
    }
    known = replace(HYBRID, prior_weight=0.5)
    found = Fusion(LexicalIndex(postings_of_texts(texts, known, priors), known), vectors)
    for n in range(300):
        hybrid = replace(
            HYBRID,
            lexical_candidates=int(rng.integers(0, 20)),
            most_postings=int(rng.integers(0, 300)),
            most_terms=int(rng.integers(0, 9)),
            scoring=scoring,
            weight=float(rng.random()),
            prior_weight=float(rng.random()) * (n % 3 > 0),
        )
        found.hybrid = hybrid
        mask = None if n % 2 else rng.random(ITEMS) < rng.random()
        vector, rows, scores = asked(rng, vectors, mask, int(rng.integers(0, 40)))
        terms = found.index.terms(queries[n])
        k = int(rng.integers(0, 200)) * int(rng.integers(0, 4) > 0)
        one = found.rank(FusionQuery(terms, vector, rows, scores, mask), k)
        other = fuse_numpy(
            found.index.postings,
            np.zeros(ITEMS, np.float32),
            vectors,
            hybrid,
            FusionQuery(terms, vector, rows, scores, mask),
            hybrid.weight,
            hybrid.prior_weight,
            max(hybrid.lexical_candidates, k),
            k,
        )
        np.testing.assert_allclose(one[1:], other[1:], atol=2e-6)
        assert not found._sums.any()  # what it leaves for the next query
        assert len({*one[0]}) == len(one[0]) == len(other[0])
        if len({*np.round(other[1], 5)}) == len(other[1]):  # rounding may swap items that are equal
            assert one[0] == other[0]


@pytest.mark.parametrize("grams", [(), (1, 2)])
def test_tfidf_is_a_cosine(texts: list[str], vectors: Any, kind: str, grams: tuple[int, ...]) -> None:
    hybrid = replace(WIDE, analyzer=Analyzer(ngrams=grams, in_words=bool(grams)), scoring="tfidf")
    postings = postings_of(LexicalModel(CountedTerms(hybrid.analyzer, texts), weighting_of(hybrid)))
    found, rng = Fusion(LexicalIndex(postings, hybrid), vectors), np.random.default_rng(5)
    other = TfidfVectorizer(analyzer=hybrid.analyzer.tokens, sublinear_tf=True)
    matrix = other.fit_transform(texts)
    for _ in range(20):
        asked = " ".join(rng.choice(WORDS, rng.integers(1, 6)))
        expected = (matrix @ other.transform([asked]).T).toarray()[:, 0]
        rows, _, _, lexical, _ = found.rank(
            FusionQuery(found.index.terms(asked), vectors[0], [], []), 10, 1.0
        )
        np.testing.assert_allclose(lexical, expected[rows], atol=1e-5)
        np.testing.assert_allclose(lexical, np.sort(expected)[::-1][: len(rows)], atol=1e-5)


def test_a_masked_item_is_found_by_no_word(texts: list[str], vectors: Any, kind: str) -> None:
    found = made(texts, vectors, WIDE)
    terms = found.index.terms("word7 word9")
    every = found.rank(FusionQuery(terms, vectors[0], [], []), ITEMS)[0]
    mask = np.ones(ITEMS, np.bool_)
    mask[every[::2]] = False
    assert found.rank(FusionQuery(terms, vectors[0], [], [], mask), ITEMS)[0] == every[1::2]


def test_a_query_leaves_nothing_behind_for_the_next(texts: list[str], vectors: Any, kind: str) -> None:
    found = made(texts, vectors, HYBRID)
    terms = found.index.terms("word7 word150")
    query = FusionQuery(terms, vectors[3], [3], [1.0])
    first = found.rank(query, 10)
    found.rank(FusionQuery(found.index.terms("word7 word8 word9 word10"), vectors[5], [5], [1.0]), 10)
    assert found.rank(query, 10) == first


def test_the_work_of_a_long_query_is_bounded(texts: list[str], vectors: Any, kind: str) -> None:
    """The search reads the postings of the rarest words alone, up to `Hybrid.most_postings` of them."""
    narrow = replace(HYBRID, most_postings=12, most_terms=3, lexical_candidates=ITEMS)
    found = made(texts, vectors, narrow)
    starts = found.index.postings.starts
    counts = np.diff(starts)
    terms = found.index.terms(" ".join(WORDS))
    rarest = sorted(set(terms), key=lambda term: (counts[term], term))[:3]
    reached = [
        row for term in rarest for row in found.index.postings.documents[starts[term] : starts[term + 1]]
    ]
    ranked = found.rank(FusionQuery(terms, vectors[0], [], []), ITEMS)
    assert set(ranked[0]) <= set(reached)
    assert 0 < len(ranked[0]) <= 12
    assert ranked == found.rank(FusionQuery(rarest, vectors[0], [], []), ITEMS)


def test_without_a_known_word_the_dense_order_stays(texts: list[str], vectors: Any, kind: str) -> None:
    found = made(texts, vectors, HYBRID)
    ranked: Ranked = found.rank(FusionQuery([], vectors[0], [7, 3], [0.5, 0.25]), 10)
    assert (ranked[0], ranked[2], ranked[3]) == ([7, 3], [0.5, 0.25], [0.0, 0.0])


@NEEDS_COMPILED
@pytest.mark.parametrize(("terms", "rows"), [([10**6], []), ([-1], []), ([], [ITEMS]), ([], [-1])])
def test_the_compiled_search_reads_no_memory_outside(
    texts: list[str], vectors: Any, terms: list[int], rows: list[int]
) -> None:
    with pytest.raises(IndexError):
        made(texts, vectors, HYBRID).rank(FusionQuery(terms, vectors[0], rows, [0.0] * len(rows)), 10)


@NEEDS_COMPILED
def test_arrays_of_another_catalogue_are_refused(texts: list[str], vectors: Any) -> None:
    found = made(texts, vectors, HYBRID)
    other = Fusion(found.index, vectors[:-1])
    with pytest.raises(ValueError, match="vectors: do not fit"):
        other.rank(FusionQuery([0], vectors[0], [], []), 10)
    with pytest.raises(ValueError, match="mask: expected a value for each item"):
        found.rank(FusionQuery([0], vectors[0], [], [], np.ones(ITEMS - 1, np.bool_)), 10)
    with pytest.raises(ValueError, match="0 scores for 1 rows"):
        found.rank(FusionQuery([0], vectors[0], [1], []), 10)
    with pytest.raises(ValueError, match="weight: expected 0 to 1"):
        found.rank(FusionQuery([0], vectors[0], [], []), 10, -0.5)
