"""Candidates of a step: no known positive is a negative, and no item lacks a training pair."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.people import data_of_people, random_people
from twinspire.protos.errors import DataError
from twinspire.train.config.losses import Bce, FullSoftmax, InBatchSoftmax, LossConfig, SampledSoftmax
from twinspire.train.data.batches import Batch, batches
from twinspire.train.data.history_batches import HistoryBatches
from twinspire.train.data.training_data import Pairs, Positives, TrainingData
from twinspire.train.losses.objectives import Candidates, Objective, build_objective, draw_negatives
from twinspire.train.models.prepared_inputs import PreparedHistories

ITEMS = 15
FULL = FullSoftmax("full_softmax")
IN_BATCH = InBatchSoftmax("in_batch_softmax")
LOSSES: dict[str, LossConfig] = {
    "full": FULL,
    "in batch": IN_BATCH,
    "in batch, hard": replace(IN_BATCH, hard_negatives=2, mine_from=5),
    "in batch, mixed": replace(IN_BATCH, uniform_negatives=6),
    "sampled": SampledSoftmax("sampled_softmax"),
}
KINDS = pytest.mark.parametrize("kind", LOSSES)
PLAIN = st.lists(st.tuples(st.integers(0, 11), st.integers(0, ITEMS - 1)), min_size=2, max_size=40)


def pairs_of(pairs: list[tuple[int, int]], label: list[float] | None = None) -> Pairs:
    query, item = np.array(pairs).T
    labels = None if label is None else np.array(label, np.float32)
    return Pairs(query, item, np.ones(len(pairs), np.float32), labels)


def data_of_pairs(pairs: Pairs) -> TrainingData:
    """A data set without histories, whose only part is the training pairs."""
    return TrainingData({}, {}, {"train": pairs}, 12, ITEMS)


def batches_and_candidates(
    objective: Objective[Any], data: TrainingData, size: int = 8
) -> list[tuple[Batch, Candidates]]:
    """The batches of an epoch and the candidates of each."""
    pairs, generator = objective.pairs, np.random.default_rng(0)
    if data.histories is None:
        found = list(batches(len(pairs), pairs.query, size, (0, 0)))
    else:
        corpus = PreparedHistories(data.histories, data.item_ids, 10)
        found = list(HistoryBatches(pairs, corpus, size, shared=True).draw((0, 0)))
    torch.manual_seed(0)
    vectors = torch.randn(data.query_count, 4), torch.randn(data.item_count, 4)
    hard = objective.mine(lambda: vectors, (0, 0))
    return [(batch, objective.candidates(batch, hard, generator)) for batch in found]


@KINDS
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_the_own_item_is_a_candidate_and_seen_items_are_not_negatives(kind: str, exclude_seen: bool) -> None:
    data = data_of_people(random_people(25, ITEMS), ITEMS, exclude_seen)
    assert data.histories is not None
    objective = build_objective(LOSSES[kind], data)
    masked = 0
    for batch, candidates in batches_and_candidates(objective, data):
        assert (np.diff(candidates.items) > 0).all()  # distinct
        own = objective.pairs.item[batch.pairs]
        np.testing.assert_array_equal(candidates.items[candidates.positive], own)
        mask = objective.not_negatives(batch, candidates)
        if mask is None:
            assert kind == "full"
            assert not exclude_seen
            continue
        for n, pair in enumerate(batch.pairs):
            query = int(objective.pairs.query[pair])
            past = {*data.histories.rows(query).tolist()} if exclude_seen else set()
            known = {*candidates.items[mask[n].numpy()].tolist()}
            assert past & {*candidates.items.tolist()} <= known
            answers = {*objective.pairs.item[objective.pairs.query == query].tolist()}
            others = {*own[batch.window != batch.window[n]].tolist()}
            of_window: set[int] = set()
            if kind.startswith(("in batch", "sampled")):  # without a correction for what is not drawn
                of_window = {*own.tolist()} - others
            assert known <= past | answers | of_window
            masked += len((known - of_window) & past)
    assert (masked > 0) == exclude_seen


@KINDS
@given(pairs=PLAIN)
def test_known_positives_are_masked_in_all_but_the_full_softmax(
    kind: str, pairs: list[tuple[int, int]]
) -> None:
    data = data_of_pairs(pairs_of(pairs))
    objective = build_objective(LOSSES[kind], data)
    for batch, candidates in batches_and_candidates(objective, data):
        mask = objective.not_negatives(batch, candidates)
        if kind == "full":  # whose loss is a multinomial likelihood of all positives
            assert mask is None
            assert {*candidates.items} == {item for _, item in pairs}
            continue
        assert mask is not None
        queries = objective.pairs.query[batch.pairs]
        expected = [[(query, item) in {*pairs} for item in candidates.items] for query in queries]
        assert mask.tolist() == expected


def test_an_item_that_is_a_positive_by_another_pair_is_masked() -> None:
    data = data_of_pairs(pairs_of([(0, 3), (0, 5), (1, 5)]))
    objective = build_objective(IN_BATCH, data)
    ((batch, candidates),) = batches_and_candidates(objective, data)
    known = objective.not_negatives(batch, candidates)
    assert known is not None
    rows = {(int(q), int(i)): known[n].tolist() for n, (q, i) in enumerate(
        zip(data.parts["train"].query[batch.pairs], data.parts["train"].item[batch.pairs], strict=True)
    )}  # fmt: skip
    assert rows == {(0, 3): [True, True], (0, 5): [True, True], (1, 5): [False, True]}


@KINDS
def test_items_without_a_training_pair_are_never_candidates(kind: str) -> None:
    people = random_people(25, ITEMS)
    data = data_of_people([[2 * item for item in each] for each in people], 2 * ITEMS)
    objective = build_objective(LOSSES[kind], data)
    trained = {*data.parts["train"].item.tolist()}
    for _, candidates in batches_and_candidates(objective, data):
        assert {*candidates.items.tolist()} <= trained


def test_the_full_softmax_is_over_all_items_of_training_pairs() -> None:
    data = data_of_people(random_people(25, ITEMS), ITEMS)
    trained = sorted({*data.parts["train"].item.tolist()})
    for _, candidates in batches_and_candidates(build_objective(FULL, data), data):
        assert candidates.items.tolist() == trained
        assert candidates.negatives is None


def test_labelled_pairs_are_all_used_and_no_negatives_are_sampled() -> None:
    label = [1.0, 0, 1, 1, 0, 0]
    pairs = pairs_of([(0, 1), (0, 2), (1, 1), (1, 3), (2, 2), (2, 3)], label)
    data = data_of_pairs(pairs)
    objective = build_objective(Bce("bce"), data)
    assert len(objective.pairs) == 6
    assert objective.mine(lambda: pytest.fail("no hard negatives are mined"), (0, 0)) is None
    scores = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    ((batch, candidates),) = batches_and_candidates(objective, data)
    assert candidates.items.tolist() == [1, 2, 3]
    losses = objective.losses(scores, batch, candidates)
    for n, pair in enumerate(batch.pairs):
        score = float(scores[n, [1, 2, 3].index(pairs.item[pair])])
        probability = 1 / (1 + np.exp(-score))
        expected = -np.log(probability) if label[pair] else -np.log(1 - probability)
        assert float(losses[n]) == pytest.approx(expected, rel=1e-5)
    for loss in (FULL, IN_BATCH):  # which use positive pairs only
        assert len(build_objective(loss, data).pairs) == 3


LACKING: list[tuple[list[float] | None, LossConfig, str]] = [
    (None, Bce("bce"), r'loss\.kind = "bce", but every training pair is positive'),
    ([0, 0, 0], Bce("bce"), "holds no positive pair"),
    ([0, 1, 0], FULL, "holds a single pair"),
]


@pytest.mark.parametrize(("label", "loss", "said"), LACKING, ids=[said for *_, said in LACKING])
def test_training_pairs_without_negatives_are_refused(
    label: list[float] | None, loss: LossConfig, said: str
) -> None:
    data = data_of_pairs(pairs_of([(0, 1), (1, 2), (2, 3)], label))
    with pytest.raises(DataError, match=said):
        build_objective(loss, data)


def test_negatives_drawn_from_a_batch_are_no_known_positives() -> None:
    generator = np.random.default_rng(0)
    same = torch.from_numpy(generator.random((50, 30)) < 0.5)
    same[:, 3] = False
    columns = draw_negatives(same, 4, generator)
    assert columns.shape == (50, 4)
    assert not same.gather(1, columns).any()
    assert len(set(columns.flatten().tolist())) > 20
    only_positives = torch.ones(2, 3, dtype=torch.bool)
    assert draw_negatives(only_positives, 4, generator).shape == (2, 4)


def test_of_histories_positives_are_those_of_any_pair() -> None:
    data = data_of_people(random_people(25, ITEMS), ITEMS)
    positives = Positives.of(data.parts["train"], data.query_count)
    place, items = positives.of_queries(data.parts["train"].query)
    np.testing.assert_array_equal(items, data.parts["train"].item)
    np.testing.assert_array_equal(place, np.arange(len(items)))
