"""Sampled softmax over the code's own batches estimates the sum over the catalogue.

A user's items are likely for this user, and a shared window brings all of its items into the step of each of
its queries. The estimate is compared with the exact sum, for scores that know the users.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.helpers.people import data_of_people, histories_of, ids_of
from twinspire.train.config.losses import Correction, InBatchSoftmax, SampledSoftmax
from twinspire.train.data.batches import Batch
from twinspire.train.data.history_batches import HistoryBatches
from twinspire.train.data.training_data import Pairs, TrainingData
from twinspire.train.losses.objectives import Candidates, Objective, build_objective, mixed_log_q
from twinspire.train.models.defaults import SAMPLED
from twinspire.train.models.prepared_inputs import PreparedHistories

ITEMS = 30_000
ROWS = 24  # pairs of a step whose exact sum is computed
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Log:
    """A made log: every event is a training pair.

    Args:
        popularity: (N,), the logit of each item for users who do not take it.
        user: of each pair.
        items: of each user.
    """

    data: TrainingData
    popularity: Floats
    user: npt.NDArray[np.int64]
    items: list[list[int]]

    def scores(self, pairs: npt.NDArray[np.int64]) -> Floats:
        """(P, N): what the pairs' users are to find likely, themselves included."""
        found = np.tile(self.popularity, (len(pairs), 1))
        for row, user in zip(found, self.user[pairs], strict=True):
            row[self.items[user]] += 6.5
        return found


def made_log(users: int, events: int, exclude_seen: bool = True, repeated: float = 0.0) -> Log:
    """Users who draw items by popularity; a share of their events repeats one of their items."""
    generator = np.random.default_rng(0)
    popularity = -0.6 * np.log(np.arange(1, ITEMS + 1))
    people = []
    for _ in range(users):
        drawn = np.argsort(-popularity - generator.gumbel(size=ITEMS))[:events]
        again = generator.random(events) < repeated
        people.append([*map(int, np.where(again, generator.choice(drawn, events), drawn))])
    histories = histories_of(people, ITEMS)
    at = np.arange(len(histories.run))
    pairs = Pairs(at, histories.run, np.ones(len(at), np.float32))
    data = replace(data_of_people(people, ITEMS, exclude_seen), parts={"train": pairs}, histories=histories)
    popularity -= np.log(np.exp(popularity).mean())
    return Log(data, popularity, np.repeat(np.arange(users), events), people)


def steps(
    log: Log, objective: Objective[Any], count: int, size: int, longest: int, shared: bool = True
) -> Iterator[tuple[Batch, Candidates]]:
    """The first steps of an epoch."""
    assert log.data.histories is not None
    corpus = PreparedHistories(log.data.histories, ids_of(ITEMS), longest)
    generator = np.random.default_rng(0)
    for batch in islice(HistoryBatches(objective.pairs, corpus, size, shared).draw((0, 0)), count):
        yield batch, objective.candidates(batch, None, generator)


def estimated(
    log: Log, objective: Objective[InBatchSoftmax], batch: Batch, candidates: Candidates, rows: Any
) -> Floats:
    """(R,): the sum over the negatives, as the loss of each row has it."""
    full = log.scores(batch.pairs[rows])
    scores = np.zeros((len(batch.pairs), len(candidates.items)))
    scores[rows] = full[:, candidates.items]
    losses = objective.losses(torch.from_numpy(scores[batch_of_queries(batch)]), batch, candidates)
    item = objective.pairs.item[batch.pairs[rows]]
    own = full[np.arange(len(rows)), item]
    pairs = np.bincount(batch.window)[batch.window[rows]]
    share, uniform = objective.item_share[item], objective.config.uniform_negatives
    trained = len(objective.trained_items)
    own = own - np.diag(mixed_log_q(share, (batch.size - pairs)[:, None], uniform, trained))
    return np.asarray(np.exp(own) * np.expm1(losses.numpy()[rows]))


def batch_of_queries(batch: Batch) -> npt.NDArray[np.int64]:
    """The place of one pair of each query; in this log each query has one."""
    assert len(batch.queries) == len(batch.pairs)
    return np.argsort(batch.query)


def exact(log: Log, objective: Objective[InBatchSoftmax], pairs: npt.NDArray[np.int64]) -> Floats:
    """(R,): the sum over all trained items but the own one and those that the history excludes."""
    weights = np.exp(log.scores(pairs))
    untrained = np.setdiff1d(np.arange(ITEMS), objective.trained_items)
    for row, pair, seen in zip(weights, pairs, log.data.seen(objective.pairs.query[pairs]), strict=True):
        row[[*seen, objective.pairs.item[pair], *untrained]] = 0
    return np.asarray(weights.sum(axis=1))


CASES: dict[str, tuple[tuple[int, int, bool, float], int, int, bool]] = {
    # arguments of `made_log`, pairs of a step, longest window, shared
    "20 events": ((400, 20, True, 0), 1024, 100, True),
    "60 events": ((150, 60, True, 0), 1024, 100, True),
    "windows of 15 of 60 events": ((150, 60, True, 0), 512, 15, True),
    "repeated items": ((300, 30, False, 0.3), 1024, 100, True),
    "a window for each query": ((400, 20, True, 0), 1024, 100, False),
}


@pytest.mark.parametrize("case", CASES)
def test_the_estimate_is_the_sum_over_the_catalogue(case: str) -> None:
    made, size, longest, shared = CASES[case]
    log = made_log(*made)
    objective = build_objective(SAMPLED, log.data)
    found, expected = [], []
    generator = np.random.default_rng(0)
    for batch, candidates in steps(log, objective, 8, size, longest, shared):
        rows = generator.permutation(len(batch.pairs))[:ROWS]
        found.append(estimated(log, objective, batch, candidates, rows))
        expected.append(exact(log, objective, batch.pairs[rows]))
    assert np.concatenate(found).mean() == pytest.approx(np.concatenate(expected).mean(), rel=0.06)


@pytest.mark.parametrize("correction", ["none", "logq"])
def test_ranks_have_the_losses_of_one_process(correction: Correction) -> None:
    log = made_log(60, 20)
    objective = build_objective(replace(SAMPLED, correction=correction, uniform_negatives=64), log.data)
    for batch, candidates in steps(log, objective, 2, 300, 7):
        generator = torch.Generator().manual_seed(0)
        scores = torch.randn(len(batch.queries), len(candidates.items), generator=generator)
        whole = objective.losses(scores, batch, candidates)
        for rank in range(3):
            share, places = batch.share(rank, 3)
            of_share = np.flatnonzero(np.isin(batch.queries, share.queries))
            own = candidates.of_pairs(places)
            mask = objective.not_negatives(batch, candidates)
            mask_of_share = objective.not_negatives(share, own)
            assert mask is not None
            assert mask_of_share is not None
            assert torch.equal(mask_of_share, mask[places])
            found = objective.losses(scores[of_share], share, own)
            torch.testing.assert_close(found, whole[places])


def test_without_a_correction_items_that_only_the_own_window_brings_are_no_negatives() -> None:
    """The user takes them next, and they would be negatives in every step of the query."""
    log = made_log(60, 20)
    assert log.data.histories is not None
    unmasked = 0
    for loss in (InBatchSoftmax("in_batch_softmax", uniform_negatives=50), SampledSoftmax("sampled_softmax")):
        objective = build_objective(loss, log.data)
        uniform = loss.uniform_negatives if isinstance(loss, InBatchSoftmax) else 0
        for batch, _ in steps(log, objective, 3, 300, 7):
            candidates = objective.candidates(batch, None, np.random.default_rng(1))
            known = objective.not_negatives(batch, candidates)
            assert known is not None
            drawn = {*np.random.default_rng(1).choice(objective.trained_items, uniform).tolist()}
            for n, pair in enumerate(batch.pairs):
                inside = batch.window == batch.window[n]
                others = {*objective.pairs.item[batch.pairs[~inside]].tolist()} | drawn
                negatives = {*candidates.items[~known[n].numpy()].tolist()}
                past = {*log.data.histories.rows(int(objective.pairs.query[pair])).tolist()}
                own = int(objective.pairs.item[pair])
                assert negatives == others - past - {own}
                unmasked += len(negatives & {*log.items[log.user[pair]]})
    assert unmasked  # an item of the user that others take, too, stays a negative


def test_a_step_of_one_window_keeps_its_negatives() -> None:
    log = made_log(3, 20)
    for loss in (InBatchSoftmax("in_batch_softmax"), SampledSoftmax("sampled_softmax")):
        objective = build_objective(loss, log.data)
        for batch, candidates in steps(log, objective, 3, 20, 100):
            known = objective.not_negatives(batch, candidates)
            assert known is not None
            assert len({*batch.window.tolist()}) == 1
            left = (~known).sum(dim=1)
            assert sorted(left.tolist()) == list(range(20))
