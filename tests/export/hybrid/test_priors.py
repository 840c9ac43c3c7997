"""The prior of the items that were clicked after the same query: of training clicks alone, and kept by id."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.lexical import HYBRID, postings_of_texts
from tests.helpers.tiny import tiny_manifest
from tests.helpers.tiny_towers import TinyTower
from tests.train.evaluation.test_baselines import experiment_with
from tests.train.evaluation.test_query_popularity import clicked as data_with
from twinspire.export import ann
from twinspire.export.evaluation.hybrid_ranking import HybridRanking
from twinspire.export.hybrid.postings import (
    interleaved,
    postings_of,
    ranking_of,
    rows_of,
    weights_of_rows,
    weights_of_texts,
    with_priors,
)
from twinspire.export.hybrid.priors import choose_prior, priors_of
from twinspire.protos.bundle import ITEMS as ITEM_FILE
from twinspire.protos.bundle import Hybrid
from twinspire.protos.hybrid.fusion import BM25_ALONE, Fusion, FusionQuery, clicked
from twinspire.protos.hybrid.lexical_index import LexicalIndex, Postings
from twinspire.protos.lexical import Weighting
from twinspire.train.data.training_data import TrainingData
from twinspire.train.evaluation.intervals import Clusters
from twinspire.train.evaluation.lexical_model import CountedTerms, LexicalModel

TEXTS = ["red shoe", "hat", "blue sandal"]
WITH_PRIORS = replace(HYBRID, prior_weight=0.4)


def known(index: LexicalIndex, query: str) -> dict[int, float]:
    """The priors after a query, by row."""
    rows, values = clicked(index.postings, index.terms(query))
    return dict(zip(rows.tolist(), values.tolist(), strict=True))


def index_of(data: TrainingData) -> LexicalIndex:
    texts = ["red shoe", "shoe", "blue shoe", "sandal", "hat"]
    words = postings_of(LexicalModel(CountedTerms(HYBRID.analyzer, texts), Weighting()))
    return LexicalIndex(with_priors(words, priors_of(experiment_with(), data)), WITH_PRIORS)


def test_a_prior_is_the_share_of_the_clicks_with_doubt() -> None:
    data = data_with(("shoe", 3), ("  SHOE ", 3), ("ｓｈｏｅ", 2), ("hat", 4))
    index = index_of(data)  # validation and test ask "shoe" for item 0, which is no click
    assert known(index, "Shoe") == pytest.approx({2: 1 / 5, 3: 2 / 5})
    assert known(index, "hat ") == pytest.approx({4: 1 / 3})
    assert known(index, "shoe hat") == {}


def test_weights_count_and_negative_impressions_do_not() -> None:
    data = data_with(("shoe", 3), ("shoe", 2), ("shoe", 1))
    train = replace(data.parts["train"], weight=np.array([2.0, 0.0, 1.0], np.float32))
    assert known(index_of(replace(data, parts={**data.parts, "train": train})), "shoe") == pytest.approx(
        {1: 1 / 5, 3: 2 / 5}
    )
    train = replace(train, label=np.array([1, 1, 0], np.float32))
    assert known(index_of(replace(data, parts={**data.parts, "train": train})), "shoe") == pytest.approx(
        {3: 2 / 4}
    )


@pytest.mark.parametrize("weight", [0.0, 0.4])
def test_queries_without_terms_are_ranked_as_by_the_towers_alone(
    weight: float,
) -> None:
    hybrid = replace(HYBRID, weight=weight, prior_weight=1.0, dense_candidates=200)
    vectors = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors, queries = vectors[:450], vectors[450:]
    postings = postings_of_texts([""] * 450, hybrid, {"shoe": {0: 0.9}})
    ranking = HybridRanking(vectors, Fusion(LexicalIndex(postings, hybrid), vectors))
    alone = ann.exact(queries, vectors, 5)
    np.testing.assert_array_equal(ranking.rank(queries, ["hat"] * 50, 5), alone)
    assert (ranking.rank(queries, ["shoe"] * 50, 5)[:, 0] == 0).mean() > 0.5
    assert (ranking.rank(queries, ["hat"] * 50, 5, BM25_ALONE) == -1).all()


def test_all_weights_at_once_rank_as_the_service_does_by_each() -> None:
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice([*"abcdefghijklmnopqrst"], 6)) for _ in range(450)]
    vectors = random.normal(size=(480, 8)).astype(np.float32)
    items, queries = vectors[:450], vectors[450:]
    hybrid = replace(HYBRID, prior_weight=0.0)
    index = LexicalIndex(postings_of_texts(texts, hybrid, {}), hybrid)
    ranking = HybridRanking(items, Fusion(index, items))
    near, weights = ranking.candidates(queries, 20), (0.05, 0.5, 0.95, BM25_ALONE)
    found = ranking.rank_each(queries, texts[:30], 10, weights, near)
    most = max(10, hybrid.dense_candidates)
    for n, (rows, scores) in enumerate(near):
        asked = FusionQuery(index.terms(texts[n]), queries[n], rows[:most], scores[:most])
        for weight in weights:
            assert found[weight][n].tolist() == ranking.fusion.rank(asked, 10, weight)[0]


def test_priors_move_with_the_ids_of_the_items(tmp_path: Path) -> None:
    """A new item comes first, the second is gone, and the third has another text."""
    index = LexicalIndex(
        postings_of_texts(TEXTS, WITH_PRIORS, {"shoe": {0: 0.5, 1: 0.25, 2: 0.125}, "hat": {1: 0.5}}),
        WITH_PRIORS,
    )
    rows = rows_of(["a", "b", "c"], ["new", "a", "c"])
    assert rows.tolist() == [-1, 0, 2]
    is_kept = np.array([False, True, False])
    kept = weights_of_rows(index.postings, rows[is_kept])
    fresh = weights_of_texts(index, ["red hat", "red sandal"], rows[~is_kept])
    moved = LexicalIndex(interleaved(index.postings, kept, fresh, is_kept), WITH_PRIORS)
    assert known(moved, "shoe") == {1: 0.5, 2: 0.125}
    assert known(moved, "hat") == {}
    moved.postings.write(tmp_path)
    Postings.read(tmp_path, 3)


def test_a_bundle_is_measured_with_its_own_priors(tmp_path: Path) -> None:
    """Over the items of a data set, in another order than those of the bundle."""
    postings_of_texts(TEXTS, WITH_PRIORS, {"shoe": {0: 0.5, 2: 0.125}}).write(tmp_path)
    (tmp_path / ITEM_FILE).write_text(json.dumps({"ids": ["a", "b", "c"]}))
    manifest = tiny_manifest(3, TinyTower(), hybrid=WITH_PRIORS)
    vectors = np.eye(3, 8, dtype=np.float32)
    found = ranking_of(tmp_path, manifest, ["x", "blue", "red"], ["new", "c", "a"], vectors)
    assert found is not None
    assert known(found.fusion.index, "shoe") == {1: 0.125, 2: 0.5}


@pytest.mark.parametrize(
    ("gain", "recall", "weight"),
    [
        (0.09, 0.0, 0.1),  # of the weights .1 to .8, which are as good, the lowest
        (0.015, 0.0, 0.0),  # more than a standard error, .01, but not beyond chance
        (0.09, -0.09, 0.0),  # another main metric is worse
    ],
)
def test_the_lowest_weight_that_helps_beyond_chance(gain: float, recall: float, weight: float) -> None:
    noise = np.tile([-0.1, 0.1], 50)  # a standard error of .01 over 100 queries

    def measure(hybrid: Hybrid) -> dict[str, np.ndarray]:
        share = min(hybrid.prior_weight, 0.1) / 0.1
        return {
            "ndcg_at_10": 0.5 + share * (gain + noise),
            "recall_at_10": 0.5 + share * recall + noise * 0,
        }

    found = choose_prior(HYBRID, measure, ("recall_at_10", "ndcg_at_10"), Clusters.single(100))
    assert found.hybrid == replace(HYBRID, prior_weight=weight)
    assert found.report["prior_weight"] == weight
    assert found.metrics["ndcg_at_10"].mean() == pytest.approx(0.5 + gain * (weight > 0))
