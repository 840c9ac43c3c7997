"""Quality of a bundle beside its baselines, and the score below which nothing matches well."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.helpers.lexical import HYBRID
from tests.helpers.stdlib import Made
from twinspire.export import ann
from twinspire.export.encoding.encoding import encode_all
from twinspire.export.evaluation.hybrid_ranking import HybridRanking
from twinspire.export.evaluation.quality import (
    ServedModel,
    continued,
    encode_queries,
    evaluate,
    lead_over_best,
    verdict,
)
from twinspire.export.evaluation.weak_scores import LEAST_RIGHT, learn
from twinspire.export.hybrid.postings import over_texts
from twinspire.export.onnx.runtimes import onnx_encoder
from twinspire.protos import bundle
from twinspire.protos.bundle import Score
from twinspire.protos.documents import parse_json
from twinspire.protos.features import FeatureSpec, NumberFeature, Schema, TextFeature
from twinspire.protos.hybrid.fusion import Fusion
from twinspire.protos.hybrid.lexical_index import LexicalIndex
from twinspire.protos.nearest.scores import SCORE_TOLERANCE
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.train.data.training_data import Pairs, TrainingData, training_data_of
from twinspire.train.evaluation.ranking import BaselineFitter
from twinspire.train.metrics import OF_LABELS, mean, per_query


@pytest.fixture
def data(made: Made) -> TrainingData:
    return training_data_of(made.dataset, made.experiment.query, made.experiment.item)


@pytest.fixture
def items(made: Made, data: TrainingData) -> ann.Vectors:
    """The items as they are evaluated."""
    schema = bundle.read(made.folder).schema
    return encode_all(onnx_encoder(made.folder / bundle.ITEM_TOWER), schema.side("item"), data.items, "items")


def test_what_the_vectors_find_is_measured_by_exact_search(
    made: Made, data: TrainingData, items: ann.Vectors
) -> None:
    manifest = bundle.read(made.folder)
    query = onnx_encoder(made.folder / bundle.QUERY_TOWER)
    model = ServedModel(query, manifest.schema.side("query"), items)
    queries, relevant = data.parts["test"].by_query()
    found, _, products = evaluate(BaselineFitter(made.experiment, data), model, manifest.score, {})
    assert products is None
    vectors = encode_queries(model.query, model.inputs, data, queries, "queries")
    for name, value in mean(per_query(ann.exact(vectors, items, 100), relevant)).items():
        assert found[name] == pytest.approx(value)
    assert found["queries"] == len(queries)
    assert found["recall_at_10_low"] < found["recall_at_10"] < found["recall_at_10_high"]


def compared(metric: str, model: float, other: float, low: float, high: float) -> dict[str, Any]:
    """Metrics with the interval of the difference to item means, of which 214 modules were drawn."""
    name = f"itemmean_{metric}_gain" if metric in OF_LABELS else f"itemmean_difference_{metric}"
    ends = {name: (low + high) / 2, f"{name}_low": low, f"{name}_high": high}
    return {metric: model, f"itemmean_{metric}": other, "drawn": "214 modules", **ends}


@pytest.mark.parametrize(
    ("metric", "label", "ahead"),
    [("recall_at_10", "recall@10", 0.7), ("log_loss", "log loss", 0.5)],
)
def test_the_verdict_names_the_better_one_where_the_interval_leaves_out_0(
    metric: str, label: str, ahead: float
) -> None:
    better = compared(metric, ahead, 0.6, 0.05, 0.15)
    worse = compared(metric, 1.2 - ahead, 0.6, -0.15, -0.05)
    assert verdict(better, metric) == (
        f"better than item means at {label}: {ahead:.3f} against 0.600, "
        "+0.1000 (+0.0500 to +0.1500, 95 % interval, 214 modules drawn)"
    )
    lead = "-0.1000 (-0.1500 to -0.0500, 95 % interval, 214 modules drawn)"
    assert verdict(worse, metric) == (
        f"better baseline: item means, {label} 0.600 against {1.2 - ahead:.3f}, {lead}"
    )
    assert [is_beaten(each, metric) for each in (better, worse)] == [False, True]


def is_beaten(metrics: dict[str, Any], metric: str) -> bool:
    lead = lead_over_best(metrics, metric)
    assert lead is not None
    return lead.is_worse


def test_a_difference_that_may_be_chance_is_none() -> None:
    model = 0.6004
    even = compared("ndcg_at_10", model, 0.6, model - 0.62, model - 0.58)
    assert verdict(even, "ndcg_at_10") == (
        f"no difference beyond chance to item means at nDCG@10: 0.600, 0.600, {model - 0.6:+.4f} "
        f"({model - 0.62:+.4f} to {model - 0.58:+.4f}, 95 % interval, 214 modules drawn)"
    )
    assert verdict(even, "auc") == verdict(even, "ndcg_at_10")  # where the test part has no negatives
    assert not is_beaten(even, "ndcg_at_10")


def test_a_verdict_without_an_interval_names_nobody() -> None:
    known = {"recall_at_10": 0.5, "bm25_recall_at_10": 0.7, "tfidf_recall_at_10": 0.6}
    text = "recall@10 0.500, BM25 0.700, without an interval of the difference"
    assert verdict(known, "recall_at_10") == text
    assert verdict({"hr_at_10": 0.5}, "hr_at_10") == "HR@10 0.500, with no baseline to compare it with"
    assert lead_over_best(known, "recall_at_10") is None
    assert lead_over_best({}, "recall_at_10") is None


def test_a_model_of_histories_beats_popularity(films_made: Made) -> None:
    quality = bundle.read(films_made.folder).quality
    assert quality["ndcg_at_10_low"] > quality["popularity_ndcg_at_10_high"]
    for name in ("recall_at_10", "hr_at_50", "mrr_at_10", "ndcg_at_10", "ndcg_at_10_high"):
        assert quality[name] == pytest.approx(films_made.metrics[name], abs=0.005)
        assert quality[f"ease_{name}"] == pytest.approx(films_made.metrics[f"ease_{name}"])


def test_the_first_ten_items_are_those_of_a_request_for_ten() -> None:
    first, more = np.array([[3, 1], [4, 6]]), np.array([[1, 2, 3, 5], [6, 4, 7, -1]])
    assert continued(first, more).tolist() == [[3, 1, 2, 5], [4, 6, 7, -1]]


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
