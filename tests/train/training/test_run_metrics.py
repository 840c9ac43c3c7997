"""Metrics of a run: the few in MLflow by which runs are compared, and all of them in files."""

import csv
import io

import mlflow
import pytest

from tests.helpers.stdlib import Made
from twinspire.protos.errors import MissingStage
from twinspire.train.training.run_metrics import TABLE, as_table, compared, metrics_of
from twinspire.train.training.tracking import tracked_run

QUALITY = {"ndcg_at_10": 0.5, "bm25_ndcg_at_10": 0.4, "tfidf_ndcg_at_10": 0.6, "log_loss": 0.3}
QUALITY |= {
    "ndcg_at_10_low": 0.4,
    "ndcg_at_10_high": 0.6,
    "user_item_log_loss": 0.2,
    "itemmean_log_loss": 0.7,
}
QUALITY |= {"start_ndcg_at_10": 0.9, "exact_ndcg_at_10": 0.9, "bm25_difference_ndcg_at_10": 0.1, "queries": 7}


def test_beside_the_quality_of_the_model_stands_the_best_baseline_alone() -> None:
    expected = {
        "test/ndcg_at_10": 0.5,
        "test/ndcg_at_10_best_baseline": 0.6,
        "test/log_loss": 0.3,
        "test/log_loss_best_baseline": 0.2,  # lower is better
    }
    assert compared("test", QUALITY) == expected
    assert compared("judged", QUALITY).keys() == {"judged/ndcg_at_10", "judged/ndcg_at_10_best_baseline"}
    of_epoch = {"ndcg_at_10": 0.5, "recall_at_100": 0.9}
    assert compared("validation", of_epoch) == {"validation/ndcg_at_10": 0.5}
    assert compared("validation", {"bm25_mrr_at_10": 0.4}) == {"validation/mrr_at_10_best_baseline": 0.4}


def test_groups_of_few_metrics_are_logged_whole() -> None:
    assert compared("gates", {"parity": 1.0, "parity_bound": 2.0}) == {
        "gates/parity": 1.0,
        "gates/parity_bound": 2.0,
    }


def test_a_table_has_a_row_for_each_metric_with_the_ends_of_its_interval() -> None:
    rows = list(csv.reader(io.StringIO(as_table({**QUALITY, "verdict": "good", "refitted": True}))))
    assert rows[:3] == [
        ["of", "metric", "value", "low", "high"],
        ["", "ndcg_at_10", "0.500000", "0.400000", "0.600000"],
        ["bm25", "ndcg_at_10", "0.400000", "", ""],
    ]
    assert ["bm25_difference", "ndcg_at_10", "0.100000", "", ""] in rows
    assert ["user_item", "log_loss", "0.200000", "", ""] in rows
    assert ["", "queries", "7.000000", "", ""] in rows
    assert len(rows) == 1 + len(QUALITY) - 2


def test_a_run_has_few_metrics_and_all_of_them_in_its_files(made: Made) -> None:
    own = [name for name in made.run.data.metrics if not name.startswith("system/")]
    assert len(own) < 45
    groups = {name.partition("/")[0] for name in own}
    assert groups == {"train", "validation", "test", "data", "served", "parity", "index", "latency", "bundle"}
    everything = metrics_of(made.run)
    for name in ("ndcg_at_10", "recall_at_100"):
        assert made.run.data.metrics[f"test/{name}"] == everything[name]
        beside = max(everything[f"{each}_{name}"] for each in ("bm25", "bm25_full", "tfidf"))
        assert made.run.data.metrics[f"test/{name}_best_baseline"] == beside
    selected = max(everything[f"validation_{each}_recall_at_10"] for each in ("bm25", "bm25_full", "tfidf"))
    assert made.run.data.metrics["validation/recall_at_10_best_baseline"] == selected
    for name in ("loss", "best_epoch", "training_s", "parameters"):
        group = "data" if name == "parameters" else "train"
        assert everything[name] == made.run.data.metrics[f"{group}/{name}"]
    assert everything["bm25_difference_ndcg_at_10_low"] < everything["bm25_difference_ndcg_at_10_high"]
    table = mlflow.artifacts.load_text(f"runs:/{made.run.info.run_id}/{TABLE}")
    assert f"bm25,ndcg_at_10,{everything['bm25_ndcg_at_10']:.6f}," in table


def test_a_run_of_an_earlier_version_is_told_to_be_trained_again(store: str) -> None:
    with tracked_run("books", "fit", "0") as run_id:
        mlflow.log_metrics({"test/recall_at_10": 0.5})
    with pytest.raises(MissingStage, match=r"an earlier version has none, and its towers have to be"):
        metrics_of(mlflow.get_run(run_id))
