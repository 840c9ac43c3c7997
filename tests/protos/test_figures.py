"""The figures of a bundle, read from the flat names of its manifest."""

from twinspire.protos.figures import SHOWN, figures

QUALITY = {
    "queries": 403.0,
    "recall_at_10": 0.8,
    "recall_at_10_low": 0.7,
    "recall_at_10_high": 0.9,
    "recall_at_100": 0.95,
    "ndcg_at_10": 0.6,
    "exact_recall_at_10": 0.55,
    "bm25_recall_at_10": 0.78,
    "bm25_difference_recall_at_10": 0.02,
    "bm25_difference_recall_at_10_low": -0.01,
    "bm25_full_recall_at_10": 0.79,
    "bm25_full_difference_recall_at_10": 0.01,
    "bm25_unseen_recall_at_10": 0.3,
    "bm25_difference_unseen_recall_at_10": 0.2,
    "unseen_recall_at_10": 0.5,
    "judged_recall_at_10": 0.4,
    "judged_bm25_recall_at_10": 0.3,
    "judged_bm25_difference_recall_at_10": 0.1,
    "evaluated_text": "words",
}


def test_figures_are_of_the_bundle_and_of_each_baseline() -> None:
    found = figures(QUALITY)
    assert [(each["metric"], each["system"], each["value"]) for each in found] == [
        ("recall_at_10", "", 0.8),
        ("recall_at_10", "exact", 0.55),
        ("recall_at_10", "bm25", 0.78),
        ("recall_at_10", "bm25_full", 0.79),
        ("ndcg_at_10", "", 0.6),
    ]
    assert (found[0]["low"], found[0]["high"]) == (0.7, 0.9)
    assert (found[2]["low"], found[2]["high"]) == (None, None)


def test_other_quality_gives_no_figures() -> None:
    assert figures({}) == []
    assert figures(dict.fromkeys(SHOWN, "unknown")) == []
    assert figures({"auc": 0.7, "auc_low": 0.6, "bm25_difference_auc": 0.1}) == []
