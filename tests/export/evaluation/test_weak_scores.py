"""The score below which nothing matches well is learned on validation, and tells nonsense from queries."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.helpers.lexical import HYBRID
from tests.helpers.stdlib import Made
from twinspire.export.evaluation.hybrid_ranking import HybridRanking
from twinspire.export.evaluation.quality import ServedModel
from twinspire.export.evaluation.weak_scores import LEAST_RIGHT, learn
from twinspire.export.hybrid.rebuild import over_texts
from twinspire.protos import bundle
from twinspire.protos.bundle import Score
from twinspire.protos.documents import parse_json
from twinspire.protos.features import FeatureSpec, NumberFeature, Schema, TextFeature
from twinspire.protos.hybrid.fusion import Fusion
from twinspire.protos.hybrid.lexical_index import LexicalIndex
from twinspire.protos.nearest.scores import SCORE_TOLERANCE
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.train.data.training_data import Pairs, TrainingData

NONSENSE = ("asdfqwer zxcv", "xqzv kjwpq vvbn", "qqqq")
COUNT = 300
TEXTS = [f"word{n} word{n + 1}" for n in range(COUNT)]
COSINE = Score("cosine")


class World:
    """Queries that are the words of their items; the vectors of every tenth one are those of another item."""

    def __init__(self, count: int = COUNT) -> None:
        rng = np.random.default_rng(0)
        self.items = rng.normal(size=(COUNT, 32)).astype(np.float32)
        self.items /= np.linalg.norm(self.items, axis=1, keepdims=True)
        noisy = self.items + 0.15 * rng.normal(size=self.items.shape).astype(np.float32)
        noisy[::10] = np.roll(noisy[::10], 1, axis=0)
        self.queries = noisy / np.linalg.norm(noisy, axis=1, keepdims=True)
        rows = np.arange(count)
        parts = {"validation": Pairs(rows, rows, np.ones(count, np.float32))}
        self.data = TrainingData({"text": TEXTS}, {"text": TEXTS}, parts, COUNT, COUNT)
        self.queries = self.queries[:count]
        feature: dict[str, FeatureSpec] = {"text": TextFeature("text", "text", 64)}
        inputs = Schema(feature, feature).side("query")

        def encode(arrays: Any) -> Any:  # vectors that belong to no item
            vectors = (
                np.random.default_rng(1)
                .normal(size=(len(next(iter(arrays.values()))), 32))
                .astype(np.float32)
            )
            return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

        self.model = ServedModel(encode, inputs, self.items)

    def as_hybrid(self, **changes: Any) -> ServedModel:
        postings, hybrid = over_texts(replace(HYBRID, weight=0.8, **changes), TEXTS)
        fusion = Fusion(LexicalIndex(postings, hybrid), self.items)
        return replace(self.model, hybrid=HybridRanking(self.items, fusion))

    def learned(self, model: ServedModel | None = None, **changes: Any) -> dict[str, Any]:
        data = replace(self.data, **changes)
        return learn(data, model or self.model, self.queries, COSINE)


def test_at_most_one_in_a_hundred_right_answers_is_weak() -> None:
    world = World()
    astray = np.random.default_rng(2).normal(size=world.queries[5::20].shape)
    world.queries[5::20] = astray / np.linalg.norm(astray, axis=1, keepdims=True)  # near no item
    report = world.learned()
    scores = world.queries @ world.items.T
    order = np.argsort(-scores, axis=1)[:, :10]
    is_right = (order == np.arange(COUNT)[:, None]).any(axis=1)
    right = np.sort(scores.max(axis=1)[is_right])
    assert (report["queries"], report["right"]) == (COUNT, len(right)) == (COUNT, is_right.sum())
    assert 199 <= len(right) < 299  # so the second lowest score may be exceeded by one
    assert report["weak_score"] == pytest.approx(right[1] - SCORE_TOLERANCE, abs=1e-6)
    assert report["score_reference"] == pytest.approx(np.median(scores.max(axis=1)), abs=1e-6)
    is_weak = scores.max(axis=1) < report["weak_score"]
    assert report["weak_of_wrong"] == pytest.approx(is_weak[~is_right].mean()) and is_weak[~is_right].any()
    assert report["right_of_weak"] == pytest.approx(is_right[is_weak].mean()) and is_right[is_weak].any()
    assert report == world.learned()


def test_words_that_no_item_holds_make_a_hybrid_answer_weak() -> None:
    world = World()
    report = world.learned(world.as_hybrid())
    assert report["right"] == COUNT  # by their words
    assert report["weak_score"] < report["score_reference"] <= 1


@pytest.mark.parametrize("count", [LEAST_RIGHT - 1, LEAST_RIGHT])
def test_too_few_right_answers_give_a_reference_alone(count: int) -> None:
    world = World(count)
    report = world.learned(world.as_hybrid())
    assert report["right"] == count
    assert 0 < report["score_reference"] <= 1
    assert ("weak_score" in report) is (count == LEAST_RIGHT)
    assert ("why" in report) is (count < LEAST_RIGHT)
    if count == LEAST_RIGHT:  # no answer is wrong, and none of the right ones is below
        assert (report["weak_of_wrong"], report["right_of_weak"]) == (None, None)


def test_where_scores_say_nothing_the_report_says_why() -> None:
    world = World()
    refitted = world.learned(before_refit=world.data)
    labelled = learn(world.data, world.model, world.queries, Score("sigmoid", 0.5))
    number: dict[str, FeatureSpec] = {"number": NumberFeature("number", "number")}
    blank = replace(world.model, inputs=Schema(number, number).side("query"))
    for report, why in (
        (refitted, "refit"),
        (labelled, "sigmoid"),
        (world.learned(blank), "need a text"),
    ):
        assert report.keys() == {"why"} and why in report["why"]


def test_a_trained_bundle_tells_nonsense_from_queries(made_once: Made) -> None:
    manifest = bundle.read(made_once.folder)
    report = parse_json((made_once.folder / bundle.REPORTS / "scores.json").read_bytes())
    assert manifest.weak_score == report["weak_score"]
    assert manifest.score_reference == report["score_reference"] > report["weak_score"] > 0
    retriever = Retriever.load(made_once.folder)
    known = ("split a string into words", "parse command line arguments")
    answers = retriever.search([*map(Query, (*known, *NONSENSE))], 10)
    assert [answer.weak for answer in answers] == [False] * len(known) + [True] * len(NONSENSE)
    assert all(len(answer.hits) == 10 for answer in answers)
