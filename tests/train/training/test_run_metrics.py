"""Metrics of a run: the few in MLflow by which runs are compared, and all of them in files."""

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from tests.helpers.stdlib import Made
from twinspire.protos.errors import MissingStage, Unavailable
from twinspire.train.training.run import _log_metrics
from twinspire.train.training.run_metrics import metrics_of, select_compared
from twinspire.train.training.tracking import tracked_run
from twinspire.train.training.trainer import State

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
    assert select_compared("test", QUALITY) == expected
    judged = select_compared("judged", QUALITY)
    assert judged.keys() == {"judged/ndcg_at_10", "judged/ndcg_at_10_best_baseline"}
    of_epoch = {"ndcg_at_10": 0.5, "recall_at_100": 0.9}
    assert select_compared("validation", of_epoch) == {"validation/ndcg_at_10": 0.5}
    of_baseline = {"bm25_mrr_at_10": 0.4}
    assert select_compared("validation", of_baseline) == {"validation/mrr_at_10_best_baseline": 0.4}


def test_a_run_has_few_metrics_and_all_of_them_in_its_file(made: Made) -> None:
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


def test_a_run_of_an_earlier_version_is_told_to_be_trained_again(store: str) -> None:
    with tracked_run("books", "fit", "0") as run_id:
        mlflow.log_metrics({"test/recall_at_10": 0.5})
    with pytest.raises(MissingStage, match=r"holds no metrics\.json, .* train it again"):
        metrics_of(mlflow.get_run(run_id))


def test_metrics_that_cannot_be_read_now_are_no_reason_to_train_again(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tracked_run("books", "fit", "0") as run_id:
        mlflow.log_text("{", "metrics.json")
    run = mlflow.get_run(run_id)
    with pytest.raises(Unavailable, match=r"its metrics\.json cannot be read"):
        metrics_of(run)

    def fails(*_: object) -> None:
        raise MlflowException("the server is down")

    monkeypatch.setattr(mlflow.MlflowClient, "list_artifacts", fails)
    with pytest.raises(Unavailable, match="the server is down"):
        metrics_of(run)


def test_the_figures_of_validation_are_those_of_the_kept_epoch(store: str) -> None:
    record = {"validation_mrr_at_10": 0.1, "validation_ndcg_at_10": 0.1, "loss": 3.0}
    history = [record, {**record, "validation_ndcg_at_10": 0.4}, {**record, "validation_ndcg_at_10": 0.2}]
    with tracked_run("books", "fit", "0") as run_id:
        for epoch, each in enumerate(history):
            mlflow.log_metrics({"validation/ndcg_at_10": each["validation_ndcg_at_10"]}, epoch)
        state = State(history=history, best_epoch=1)
        _log_metrics(run_id, state, {"bm25_ndcg_at_10": 0.3}, {"ndcg_at_10": 0.5}, {})
    run = mlflow.get_run(run_id)
    shown = run.data.metrics
    assert (shown["validation/ndcg_at_10"], shown["validation/ndcg_at_10_best_baseline"]) == (0.4, 0.3)
    assert shown["test/ndcg_at_10"] == 0.5
    found = metrics_of(run)
    assert (found["validation_ndcg_at_10"], found["validation_bm25_ndcg_at_10"]) == (0.4, 0.3)
