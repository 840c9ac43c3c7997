"""The figures of a part: of all, of the cold, of labels, and of items kept out of training."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from tests.helpers.people import data_of_people
from twinspire.protos.bundle import Score
from twinspire.train.data.training_data import Judged, Pairs, TrainingData
from twinspire.train.evaluation.label_baselines import SMOOTHINGS, item_means
from twinspire.train.evaluation.report import (
    evaluate_cold_items,
    evaluate_judged,
    evaluate_labels,
    evaluate_ranking,
)
from twinspire.train.metrics import MAIN_AND_RECALL, WITH_INTERVAL, mean, per_query

ITEMS = 8
PEOPLE = [[0, 1, 2, 3], [1, 0, 3, 2], [0, 2, 1, 6]]  # nobody takes item 6 in training, nor 4, 5 and 7
Rows = npt.NDArray[np.int64]


def rank(queries: Rows) -> Rows:
    """Items in order, whatever is asked."""
    return np.tile(np.arange(ITEMS), (len(queries), 1))


def backwards(queries: Rows) -> Rows:
    return rank(queries)[:, ::-1]


def data() -> TrainingData:
    return data_of_people(PEOPLE, ITEMS)


def pairs_of(query: list[int], item: list[int], label: list[float] | None = None) -> Pairs:
    labels = None if label is None else np.array(label, np.float32)
    return Pairs(np.array(query, np.int64), np.array(item, np.int64), np.ones(len(query), np.float32), labels)


def test_the_model_and_each_baseline_are_measured_alike() -> None:
    found = evaluate_ranking(data(), "test", rank, {"back": backwards, "again": rank})
    queries, relevant = data().parts["test"].by_query()
    for prefix, each in (("", rank), ("back_", backwards), ("again_", rank)):
        expected = per_query(each(queries), relevant)
        for name, value in mean(expected).items():
            assert found[prefix + name] == pytest.approx(value)
        for name in WITH_INTERVAL:
            assert found[f"{prefix}{name}_low"] <= found[prefix + name] <= found[f"{prefix}{name}_high"]
    assert found["queries"] == 3
    assert found["mrr_at_10"] == pytest.approx(np.mean([1 / 4, 1 / 3, 1 / 7]))
    assert found["back_mrr_at_10"] == pytest.approx(np.mean([1 / 5, 1 / 6, 1 / 2]))


def test_the_difference_to_a_baseline_is_measured_query_by_query() -> None:
    found = evaluate_ranking(data(), "test", rank, {"back": backwards, "again": rank})
    queries, relevant = data().parts["test"].by_query()
    ndcg = per_query(rank(queries), relevant)["ndcg_at_10"]
    differences = ndcg - per_query(backwards(queries), relevant)["ndcg_at_10"]
    assert found["back_difference_ndcg_at_10"] == pytest.approx(differences.mean())
    # Each draw of three queries is a mean of these differences, and the extremes are among 2,000 draws, from
    # which the ends of an interval of three are far away.
    assert found["back_difference_ndcg_at_10_low"] < differences.min()
    assert found["back_difference_ndcg_at_10_high"] > differences.max()
    for metric in WITH_INTERVAL:
        assert [found[f"again_difference_{metric}{end}"] for end in ("", "_low", "_high")] == [0, 0, 0]
        assert f"difference_{metric}" not in found


def test_coverage_and_popularity_are_of_histories() -> None:
    found = evaluate_ranking(data(), "test", lambda queries: np.tile([0, 4], (len(queries), 1)))
    assert found["coverage_at_10"] == 2 / ITEMS
    plain = replace(data(), histories=None)
    assert "coverage_at_10" not in evaluate_ranking(plain, "test", rank)


def test_answers_that_training_has_not_seen_have_figures_of_their_own() -> None:
    found = evaluate_ranking(data(), "test", rank)
    assert found["cold_items_queries"] == 2  # whose answers are 3 and 6
    assert found["cold_items_hr_at_10"] == 1
    expected = np.mean([1 / np.log2(5), 1 / np.log2(8)])
    assert found["cold_items_ndcg_at_10"] == pytest.approx(expected)
    assert "cold_users_queries" not in found


def test_of_several_answers_only_those_that_are_new_count_as_such() -> None:
    known = data()
    query = int(known.parts["test"].query[0])
    parts = {**known.parts, "test": pairs_of([query, query], [0, 6])}
    found = evaluate_ranking(replace(known, parts=parts), "test", rank)
    assert found["ndcg_at_10"] > found["cold_items_ndcg_at_10"] == pytest.approx(1 / np.log2(8))


def test_queries_without_a_history_have_figures_of_their_own() -> None:
    known = data()
    parts = {**known.parts, "test": pairs_of([0, 3, 8], [1, 3, 0])}  # queries 0, 4 and 8 begin a run
    found = evaluate_ranking(replace(known, parts=parts), "test", rank)
    assert found["cold_users_queries"] == 2
    assert found["cold_users_ndcg_at_10"] == pytest.approx(np.mean([1 / np.log2(3), 1]))


def judged(rows: list[int]) -> TrainingData:
    relevant, gains = (
        [np.array([2, 5]), np.array([1]), np.array([7])],
        [np.array([1, 3]), *[np.array([2])] * 2],
    )
    known = data()
    return replace(known, judged=Judged(["a", "b", "c"], np.array(rows), relevant, gains, known.items))


def test_judged_queries_are_measured_by_their_gains_for_all_alike() -> None:
    known = judged([0, 1, 1])
    found = evaluate_judged(known, rank, {"back": backwards})
    assert known.judged is not None
    for prefix, each in (("judged_", rank), ("judged_back_", backwards)):
        expected = mean(per_query(each(known.judged.query), known.judged.relevant, known.judged.gains))
        for name in MAIN_AND_RECALL:
            low, value, high = (found[f"{prefix}{name}{end}"] for end in ("_low", "", "_high"))
            assert value == pytest.approx(expected[name])
            assert low <= value <= high
    assert found["judged_queries"] == 3
    first = (1 / np.log2(4) + 3 / np.log2(7)) / (3 + 1 / np.log2(3))
    assert found["judged_ndcg_at_10"] == pytest.approx(np.mean([first, 1 / np.log2(3), 1 / np.log2(9)]))


def cold(count: int) -> TrainingData:
    """People who all take the same items, and one that training never holds: the `cold` record of each."""
    items = 100
    known = data_of_people([[0, 1, 2, 3]] * count, items)
    begun = 4 * np.arange(count) + 3
    record = Pairs(begun, np.full(count, 77), np.ones(count, np.float32))
    return replace(known, parts={**known.parts, "cold": record})


def test_items_kept_out_are_placed_beside_chance_and_popularity() -> None:
    found = evaluate_cold_items(cold(200), lambda queries: np.tile(np.arange(77, 37, -1), (len(queries), 1)))
    assert found["cold_queries"] == 200
    assert found["cold_hr_at_10"] == found["cold_hr_at_50"] == found["cold_ndcg_at_10"] == 1
    assert found["cold_hr_at_50_low"] == found["cold_hr_at_50_high"] == 1
    assert "cold_random_ndcg_at_10" in found
    # The same luck for all: what is never taken is popular by nothing, and ties are not by row.
    assert found["cold_popularity_hr_at_50"] in (0, 1)
    last = evaluate_cold_items(cold(5), lambda queries: np.tile(np.arange(50), (len(queries), 1)))
    assert last["cold_hr_at_50"] == 0


def test_without_items_kept_out_there_is_nothing_to_say() -> None:
    assert evaluate_cold_items(data(), rank) == {}


LABELS = [1.0, 0, 1, 1, 0, 0, 1, 0]


def labelled() -> TrainingData:
    query, item = [0, 1, 2, 3, 4, 5, 6, 7], [0, 0, 0, 1, 1, 2, 2, 2]
    train = pairs_of(query, item, LABELS)
    test = pairs_of([8, 9, 10, 11], [0, 1, 2, 3], [1, 0, 1, 0])
    return replace(data(), parts={"train": train, "test": test, "validation": pairs_of([1], [1], [1])})


def products(pairs: Pairs) -> npt.NDArray[np.float32]:
    return (pairs.item * 0.7 - 1.1).astype(np.float32)


def test_labels_by_hand() -> None:
    found = evaluate_labels(
        labelled(), "test", products, Score("sigmoid", bias=0.4), {"itemmean": item_means(labelled())}
    )
    truth = [1, 0, 1, 0]
    given = np.arange(4) * 0.7 - 1.1
    probability = 1 / (1 + np.exp(-(given + 0.4)))
    shares = [(2, 3), (1, 2), (1, 3), (0, 0)]  # positives and pairs of each item in training
    smoothing = SMOOTHINGS[0]  # the validation pair likes all equally
    means = [(positive + smoothing * 0.5) / (pairs + smoothing) for positive, pairs in shares]
    assert found["labelled_pairs"] == 4
    assert found["auc"] == pytest.approx(roc_auc_score(truth, given)) == 0.25
    assert found["log_loss"] == pytest.approx(log_loss(truth, probability), rel=1e-6)
    assert found["itemmean_auc"] == pytest.approx(roc_auc_score(truth, means)) == 0.5
    assert found["itemmean_log_loss"] == pytest.approx(log_loss(truth, means))


@pytest.mark.parametrize("kind", ["cosine", "inner_product"])
def test_only_a_sigmoid_is_a_probability(kind: str) -> None:
    found = evaluate_labels(labelled(), "test", products, Score(kind))  # type: ignore[arg-type]
    assert "auc" in found
    assert "log_loss" not in found


def test_where_nothing_is_negative_there_is_nothing_to_tell_apart() -> None:
    assert evaluate_labels(labelled(), "validation", products, Score("sigmoid")) == {}
    assert evaluate_labels(data(), "test", products, Score("sigmoid")) == {}
