"""What is printed and drawn of a run's figures, for queries of every kind."""

import io
from typing import Any

from rich.console import Console

from twinspire.train.metrics import SHOWN
from twinspire.train.terminal import baseline_columns, show_fit

MAIN = dict.fromkeys(SHOWN, 0.25)
FILMS: dict[str, float] = {
    **MAIN,
    "ndcg_at_10_low": 0.125,
    "ndcg_at_10_high": 0.5,
    **{f"popularity_{name}": 0.05 for name in SHOWN},
    **{f"itemknn_{name}": 0.15 for name in SHOWN},
    **{f"ease_{name}": 0.2 for name in SHOWN},
}
RESULT = {"run_id": "abc", "reused": False, "baselines": {}, "warnings": [], "drawn": "7 users"}
RESULT |= {"drawn_pairs": "9 users"}  # a user without a positive pair has no query to rank for


def shown(metrics: dict[str, float], width: int = 150, **more: Any) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    show_fit({**RESULT, "metrics": metrics, **more}, console)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


def test_each_baseline_that_was_measured_has_a_column() -> None:
    assert baseline_columns(FILMS) == {"popularity_": "popularity", "itemknn_": "item-kNN", "ease_": "EASE"}
    lines = shown(FILMS)
    assert lines[0] == "run abc"
    assert lines[1].split() == ["test,", "exact", "search", "two-tower", "popularity", "item-kNN", "EASE"]
    (line,) = (line for line in lines if line.split()[0] == "nDCG@10")
    assert line.split()[1:] == ["0.2500", "0.0500", "0.1500", "0.2000"]
    assert lines[2 + len(SHOWN) :] == ["two-tower, 95 % intervals, 7 users drawn: nDCG@10 0.1250 to 0.5000"]


def test_many_rankings_have_a_row_each_that_fits_a_terminal() -> None:
    names = ("popularity", "recent_popularity", "itemknn", "slist", "ease", "ease_recency", "ease_recent")
    metrics = MAIN | {f"{name}_{metric}": 0.125 for name in names for metric in SHOWN}
    lines = shown(metrics, width=80)
    (row,) = (line for line in lines if line.split()[:1] == ["SLIST"])
    assert row.split() == ["SLIST", *["0.1250"] * len(SHOWN)]
    assert sum("two-tower" in line and line.count("0.2500") == len(SHOWN) for line in lines) == 1
    assert not any("…" in line for line in lines)


def test_the_difference_to_the_best_baseline_is_told_by_each_metric() -> None:
    differences = {
        "ease_difference_ndcg_at_10": 0.05,
        "ease_difference_ndcg_at_10_low": -0.01,
        "ease_difference_ndcg_at_10_high": 0.125,
        "itemknn_difference_ndcg_at_10": 0.1,
        "itemknn_recall_at_10": 0.3,  # the best by this one
        "itemknn_difference_recall_at_10": -0.05,
        "itemknn_difference_recall_at_10_low": -0.075,
        "itemknn_difference_recall_at_10_high": -0.025,
    }
    assert shown(FILMS | differences)[-1] == (
        "difference to the best baseline, 95 % intervals, 7 users drawn: "
        "recall@10 -0.0500 (-0.0750 to -0.0250, item-kNN), "
        "nDCG@10 +0.0500 (-0.0100 to +0.1250, EASE: no difference beyond chance)"
    )
    start = {f"start_{name}": 0.9 for name in SHOWN}  # no baseline, so no difference to it is measured
    assert shown(FILMS | differences | start)[-1] == shown(FILMS | differences)[-1]


def test_known_and_new_queries_stand_side_by_side_where_queries_repeat() -> None:
    groups = ("seen", "unseen", "head", "tail", "traffic")
    metrics = {**FILMS, "queries": 3000.0, **{f"{group}_queries": 1000.0 for group in groups}}
    for prefix, value in {"": 0.5, "popularity_": 0.25, "itemknn_": 0.125, "ease_": 0.375}.items():
        metrics |= {f"{prefix}{group}_ndcg_at_10": value for group in groups}
    for end, value in (("", 0.125), ("_low", -0.25), ("_high", 0.5)):
        metrics[f"ease_difference_unseen_ndcg_at_10{end}"] = value
    lines = shown(metrics)
    cells = [line.split() for line in lines]
    assert ["queries", "3,000", *["1,000"] * 5] in cells
    assert ["EASE", "0.2000", *["0.3750"] * 5] in cells
    assert any(
        "unseen +0.1250 (-0.2500 to +0.5000, EASE: no difference beyond chance)" in each for each in lines
    )
    assert not any("seen:" in line for line in shown(FILMS))


def test_the_cold_and_the_labelled_are_told_where_there_are_any() -> None:
    names = ("cold_users_hr_at_10", "cold_users_ndcg_at_10", "cold_hr_at_50", "cold_popularity_hr_at_50")
    cold = dict.fromkeys((*names, "cold_random_hr_at_50"), 0.125)
    cold |= {"cold_users_queries": 1200.0, "cold_queries": 7.0}
    lines = shown(FILMS | cold)
    assert lines[-2].startswith("1,200 queries without a history: HR@10 0.1250")
    assert lines[-1].startswith("items kept out of training, HR@50: by content 0.1250")
    labels = {"auc": 0.75, "log_loss": 0.5, "ece": 0.0125, "itemmean_auc": 0.625, "itemmean_auc_gain": 0.125}
    labels |= {"itemmean_auc_gain_low": 0.03125, "itemmean_auc_gain_high": 0.25}
    labels |= {"auc_low": 0.7, "auc_high": 0.8}
    lines = shown(FILMS | labels)
    # Towers that predict a probability are judged by their labels, so these come first.
    assert lines[2].split() == "two-tower 0.7500 0.5000 0.0125".split()
    assert lines[3].split() == "item means 0.6250 +0.1250 (+0.0312 to +0.2500)".split()
    assert lines[4].lstrip().startswith("test, exact search")
    assert "two-tower, 95 % intervals, 9 users drawn: AUC 0.7000 to 0.8000" in lines
    assert shown(FILMS | {"auc": 0.75})[-1].split() == ["two-tower", "0.7500"]  # the rankings come first


def test_what_was_chosen_for_a_baseline_and_the_warnings_are_told() -> None:
    chosen = {"bm25.k1": "0.9", "bm25.b": "0.5", "ease.lambda": "200.0", "bm25_full.k1": "1.2"}
    lines = shown(FILMS, baselines=chosen, warnings=["test holds [3] queries", "another"])
    assert lines[3 + len(SHOWN) :] == [
        "BM25: k1 0.9, b 0.5",
        "BM25, full texts: k1 1.2",
        "EASE: lambda 200.0",
        "warning: test holds [3] queries",
        "warning: another",
    ]
