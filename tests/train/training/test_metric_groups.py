"""Names of metrics in MLflow: grouped by slashes, and read back, also from runs that had no groups."""

import mlflow
import pytest

from tests.helpers.stdlib import Made
from twinspire.train.training.metric_groups import GROUPS, grouped, metrics_of, name_in_code
from twinspire.train.training.tracking import tracked_run

NAMES = {
    "recall_at_10": "test/recall_at_10",
    "recall_at_10_low": "test/interval/recall_at_10_low",
    "bm25_ndcg_at_10": "test/bm25/ndcg_at_10",
    "bm25_full_ndcg_at_10": "test/bm25_full/ndcg_at_10",
    "bm25_ndcg_at_10_high": "test/bm25/interval/ndcg_at_10_high",
    "ease_recent_difference_ndcg_at_10": "test/ease_recent/difference/ndcg_at_10",
    "bm25_difference_ndcg_at_10_low": "test/bm25/difference/interval/ndcg_at_10_low",
    "dense_difference_recall_at_10": "test/dense/difference/recall_at_10",
    "itemmean_log_loss": "test/itemmean/log_loss",
    "cold_users_hr_at_10": "test/cold_users/hr_at_10",
    "cold_hr_at_50_low": "test/cold/interval/hr_at_50_low",
    "cold_popularity_hr_at_50": "test/cold/popularity_hr_at_50",
    "popularity_at_10": "test/popularity_at_10",
    "bm25_popularity_at_10": "test/bm25/popularity_at_10",
    "popularity_popularity_at_10": "test/popularity/popularity_at_10",
    "seen_ndcg_at_10": "test/seen/ndcg_at_10",
    "unseen_queries": "test/unseen/queries",
    "bm25_traffic_recall_at_10": "test/bm25/traffic/recall_at_10",
    "bm25_difference_head_ndcg_at_10_low": "test/bm25/difference/head/interval/ndcg_at_10_low",
    "popularity_cold_items_queries": "test/popularity/cold_items/queries",
}


@pytest.mark.parametrize(("name", "expected"), NAMES.items())
def test_baselines_intervals_and_other_queries_have_sections_of_their_own(name: str, expected: str) -> None:
    assert grouped("test", {name: 0.5}) == {expected: 0.5}
    assert name_in_code(expected) == name


def test_a_name_that_an_older_version_gave_is_read() -> None:
    assert name_in_code("test/popularity/at_10") == "popularity_at_10"
    assert name_in_code("test/bm25/popularity/at_10") == "bm25_popularity_at_10"


def test_judged_queries_have_a_section_in_training_and_in_what_is_served() -> None:
    names = {
        "bm25_ndcg_at_10_low": "judged/bm25/interval/ndcg_at_10_low",
        "ndcg_at_10": "judged/ndcg_at_10",
        "queries": "judged/queries",
    }
    for name, expected in names.items():
        assert grouped("judged", {name: 0.5}) == {expected: 0.5}
        assert name_in_code(expected) == f"judged_{name}"
        assert grouped("served", {f"judged_{name}": 0.5}) == {f"served/{expected}": 0.5}
        assert name_in_code(f"served/{expected}") == f"served_judged_{name}"


@pytest.mark.parametrize("group", GROUPS)
def test_a_name_in_code_has_the_prefix_of_its_group(group: str) -> None:
    (name,) = grouped(group, {"exact_recall_at_10_low": 1.0})
    assert name == f"{group}/exact/interval/recall_at_10_low"
    assert name_in_code(name) == f"{GROUPS[group]}exact_recall_at_10_low"


def test_a_run_of_before_is_read_as_one_of_now(store: str) -> None:
    with tracked_run("books", "fit", "0") as before:
        mlflow.log_metrics({"recall_at_10": 0.5, "bm25_recall_at_10": 0.25, "validation_recall_at_10": 0.1})
    with tracked_run("books", "fit", "1") as now:
        mlflow.log_metrics(grouped("test", {"recall_at_10": 0.5, "bm25_recall_at_10": 0.25}))
        mlflow.log_metrics(grouped("validation", {"recall_at_10": 0.1}) | {"system/cpu": 1.0})
    read = [metrics_of(mlflow.get_run(run_id)) for run_id in (before, now)]
    assert read[0] == {key: value for key, value in read[1].items() if not key.startswith("system/")}
    assert read[1]["system/cpu"] == 1.0


def test_every_metric_of_a_run_is_in_a_group(made: Made) -> None:
    groups = {name.partition("/")[0] for name in made.run.data.metrics}
    system = {"system"} & groups  # sampled every five seconds, so a short run may have none
    assert groups == {"train", "validation", "test", "data", "served", "parity", "index", "latency"} | system
    own = [name for name in made.run.data.metrics if name.startswith("test/") and name.count("/") == 1]
    assert 5 < len(own) < 15  # the section that a reader opens first
    assert metrics_of(made.run)["validation_bm25_recall_at_10"] > 0
