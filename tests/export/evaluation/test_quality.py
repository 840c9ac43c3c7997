"""Quality of a bundle, beside that of its towers alone and the baselines."""

from typing import Any

import numpy as np
import pytest
from rich.console import Console

from tests.helpers.stdlib import Made
from twinspire.export import ann
from twinspire.export.encoding import encode_all
from twinspire.export.evaluation.quality import (
    ServedModel,
    continued,
    encode_queries,
    evaluate,
    lead_over_best,
    rankings,
    verdict,
)
from twinspire.export.onnx.runtimes import onnx_encoder
from twinspire.protos import bundle
from twinspire.train.data.training_data import TrainingData, training_data_of
from twinspire.train.metrics import OF_LABELS, mean, per_query


@pytest.fixture
def data(made: Made) -> TrainingData:
    return training_data_of(made.dataset, made.experiment.query, made.experiment.item)


@pytest.fixture
def items(made: Made, data: TrainingData, console: Console) -> ann.Vectors:
    """The items as they are evaluated."""
    schema = bundle.read(made.folder).schema
    return encode_all(
        onnx_encoder(made.folder / bundle.ITEM_TOWER), schema.side("item"), data.items, console, "items"
    )


def test_what_the_vectors_find_is_measured_by_exact_search(
    made: Made, data: TrainingData, items: ann.Vectors, console: Console
) -> None:
    manifest = bundle.read(made.folder)
    query = onnx_encoder(made.folder / bundle.QUERY_TOWER)
    model = ServedModel(query, manifest.schema.side("query"), items)
    queries, relevant = data.parts["test"].by_query()
    answers = rankings(made.experiment, data, model, queries, console)
    found = evaluate(made.experiment, data, model, manifest.score, console, answers, None, {})
    vectors = encode_queries(model.query, model.inputs, data, queries, console, "queries")
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
