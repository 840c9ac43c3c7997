"""A run says what makes its figures weaker than they look."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.helpers.people import data_of_people
from tests.train.evaluation.test_baselines import FILLER, data_of, experiment_with
from tests.train.evaluation.test_report import pairs_of
from twinspire.protos.inputs.query_words import word_numbers
from twinspire.train.config.losses import Bce
from twinspire.train.data.training_data import Judged, TrainingData
from twinspire.train.evaluation.baselines import baselines
from twinspire.train.evaluation.intervals import Clusters, Interval
from twinspire.train.evaluation.report import evaluate_ranking
from twinspire.train.evaluation.warnings import run_warnings, worse_than_baselines

LOSSES = {1: 0.5, 2: 0.25}


def many(queries: int = 200) -> TrainingData:
    """As many test queries, and one of training that is another."""
    texts = [f"query {n}" for n in range(queries)]
    data = data_of(["an item", "another item"], [*texts, "other"], [n % 2 for n in range(queries + 1)])
    test = pairs_of([*range(queries)], [n % 2 for n in range(queries)])
    return replace(data, parts={**data.parts, "train": pairs_of([queries], [0]), "test": test})


def warnings_of(data: TrainingData, best_epoch: int = 1, max_length: int = 256, **losses: float) -> list[str]:
    experiment = experiment_with(max_length)
    rank = baselines(experiment, data)
    metrics = evaluate_ranking(data, "test", rank["bm25"], rank)
    by_epoch = {int(name.removeprefix("epoch")): value for name, value in losses.items()} or LOSSES
    return run_warnings(experiment, data, metrics, best_epoch, by_epoch)


def test_a_run_without_a_fault_has_no_warning() -> None:
    assert warnings_of(many()) == []


def test_the_untrained_start_that_was_kept() -> None:
    assert warnings_of(many(), best_epoch=0) == [
        "no epoch of 2 was better on validation than the start: the untrained towers were kept"
    ]


def test_a_baseline_that_is_better_than_the_towers() -> None:
    beside, drawn = {"bm25": 0.64, "tfidf": 0.5}, Clusters.single(300, "modules")

    def warned(*lead: float) -> list[str]:
        leads = {"bm25": Interval(*lead), "tfidf": Interval(0.1, 0.05, 0.2)}
        return worse_than_baselines(leads, beside, "ndcg_at_10", drawn)

    (told,) = warned(-0.02, -0.03, -0.01)
    assert told.startswith("BM25 is better than the towers on validation: nDCG@10 0.6400 against 0.6200")
    assert "no difference beyond chance to BM25" in warned(-0.02, -0.05, 0.01)[0]
    assert warned(-0.0004, -0.0006, -0.0002)[0].startswith("the towers have a tie with BM25 on validation: ")
    assert warned(0.0, -0.01, 0.01) == []
    assert worse_than_baselines({}, {"itemmean": 0.7}, "auc", drawn) == []  # of labels


def test_few_test_queries() -> None:
    assert warnings_of(many(199)) == ["test holds 199 queries: differences of a few hundredths are chance"]


def test_test_queries_that_stand_in_train() -> None:
    data = many()
    texts = [*data.queries["text"][:-1], "  7,   QUERY"]
    again = replace(data, queries={**data.queries, "text": texts}, query_words=word_numbers(texts))
    assert warnings_of(again) == [
        "1 of 200 test queries are also training queries: their figures show in part what was memorised, "
        "those of unseen queries do not"
    ]


def test_judged_queries_that_stand_in_train() -> None:
    data = many()
    texts, row, gain = [*data.queries["text"], "OTHER!"], np.array([0]), np.array([1])
    judged = Judged(["x", "y"], np.array([201, 0]), [row, row], [gain, gain], data.items)
    data = replace(data, queries={"text": texts}, query_words=word_numbers(texts), judged=judged)
    assert warnings_of(data) == [
        "1 of 2 judged queries are also training queries: judged figures show in part what was memorised"
    ]


def test_cut_texts_and_what_they_cost() -> None:
    items = [f"{FILLER}t{n}" for n in range(50)]
    data = data_of([*items, "short"], [f"t{n % 50} {n}" for n in range(200)], [n % 50 for n in range(200)])
    assert warnings_of(data, max_length=40) == [
        "texts are cut at max_length: 98.0% of the items lose their end, on average 16% of a text; "
        "on whole texts BM25 has recall@10 1.000, on cut ones 0.000"
    ]
    (told,) = warnings_of(data, max_length=4)
    assert "100.0% of the items lose their end, on average " in told
    assert "95.0% of the queries lose their end, on average " in told


@pytest.mark.parametrize(("long", "max_length"), [(50, len(FILLER)), (2, 40)])
def test_a_cut_of_a_few_characters_or_of_a_few_texts_is_no_warning(long: int, max_length: int) -> None:
    items = [f"{FILLER if n < long else ''}t{n}" for n in range(50)]
    data = data_of([*items, "short"], [f"t{n % 50} {n}" for n in range(200)], [n % 50 for n in range(200)])
    assert warnings_of(data, max_length=max_length) == []


def test_a_loss_of_zero() -> None:
    assert warnings_of(many(), epoch1=0.0, epoch2=0.5, epoch3=0.0) == [
        "the loss was zero in epoch 1, 3: nothing was learned there; do the batches hold more than one item?"
    ]


def test_the_order_of_the_file_stands_for_time() -> None:
    data = data_of_people([[n % 7, (n + 1) % 7, (n + 2) % 7] for n in range(200)], 7)
    texts: dict[str, Any] = {"text": [f"q{n}" for n in range(data.query_count)]}
    data = replace(data, queries=texts, items={**data.items, "text": [f"i{n}" for n in range(7)]})

    def told(by: str, data: TrainingData = data) -> list[str]:
        split = replace(experiment_with().split, by=by)  # type: ignore[arg-type]
        return run_warnings(experiment_with(split=split), data, {"queries": 200.0}, 1, LOSSES)

    assert told("last")[0].startswith('there is no time column: split.by = "last" tests the last event')
    assert "the last session of each user" in told("last_session")[0]
    assert told("random") == []
    assert told("last", replace(data, moments=np.zeros(data.query_count))) == []


def test_negatives_of_the_data_that_the_loss_leaves_out() -> None:
    data = many()
    pairs = replace(pairs_of([200, 200, 200], [0, 1, 1]), label=np.array([1, 0, 0], np.float32))
    data = replace(data, parts={**data.parts, "train": pairs})
    (told,) = run_warnings(experiment_with(), data, {"queries": 300.0}, 1, LOSSES)
    assert told.startswith(
        "2 of 3 training pairs are negative, and the loss in_batch_softmax leaves them out"
    )
    labels = replace(experiment_with(), loss=Bce("bce"))
    assert run_warnings(labels, data, {"queries": 300.0}, 1, LOSSES) == []


@pytest.mark.parametrize(("share", "is_told"), [(0.0, False), (0.3, True), (1.0, True)])
def test_a_test_part_of_what_the_service_chose_to_show(share: float, is_told: bool) -> None:
    told = [each for each in warnings_of(replace(many(), by_ranking=share)) if "--explore-share" in each]
    assert len(told) == is_told
    if is_told:
        assert told[0].startswith(f"{share:.0%} of the test pairs are clicks on what a ranking alone")
