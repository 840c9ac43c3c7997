"""Losses over the candidates: corrections for the draw, and losses that fall in training."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.helpers.people import data_of_people, random_people
from tests.train.losses.test_objective import (
    IN_BATCH,
    ITEMS,
    KINDS,
    LOSSES,
    batches_and_candidates,
)
from twinspire.train.config.losses import InBatchSoftmax
from twinspire.train.data.batches import batches
from twinspire.train.data.training_data import TrainingData
from twinspire.train.losses.objectives import Objective, build_objective, mixed_log_q


@pytest.mark.parametrize("uniform", [0, 5])
def test_corrections_follow_the_size_of_each_batch(uniform: int) -> None:
    data = data_of_people(random_people(60, ITEMS), ITEMS)
    corrected = replace(IN_BATCH, correction="logq", uniform_negatives=uniform)
    objective = build_objective(corrected, data)
    share, trained = objective.item_share, len(objective.trained_items)
    sizes = set()
    for batch, candidates in batches_and_candidates(objective, data, size=20):
        sizes.add(len(batch.pairs))
        pairs = np.bincount(batch.window)[batch.window]
        log_q = mixed_log_q(share[candidates.items], (len(batch.pairs) - pairs)[:, None], uniform, trained)
        own = objective.pairs.item[batch.pairs]
        for row, window, item in zip(log_q, batch.window, own, strict=True):
            certain = {*own[batch.window == window].tolist()} - {item}
            row[np.isin(candidates.items, [*certain])] = 0
        # The correction subtracts log q from the scaled scores, so these scores become zero.
        raised = (IN_BATCH.temperature * torch.from_numpy(log_q))[np.argsort(batch.query)]
        found = objective.losses(raised, batch, candidates)
        known = objective.not_negatives(batch, candidates)
        assert known is not None
        left = (~known).sum(dim=1)
        torch.testing.assert_close(found, torch.log1p(left))
    assert len(sizes) > 1


def test_corrections_are_finite_for_every_batch_size() -> None:
    """The last batch of an epoch may have only two pairs."""
    for size in range(2, 12):
        data = data_of_people([[n % ITEMS, (n + 3) % ITEMS] for n in range(11)], ITEMS)
        objective = build_objective(InBatchSoftmax("in_batch_softmax", correction="logq"), data)
        for batch, candidates in batches_and_candidates(objective, data, size):
            scores = torch.zeros(len(batch.queries), len(candidates.items))
            losses = objective.losses(scores, batch, candidates)
            assert losses.isfinite().all()


def losses_of_steps(objective: Objective[Any], data: TrainingData, steps: int) -> npt.NDArray[np.float64]:
    """The loss of each step, for free vectors of each query and item."""
    torch.manual_seed(0)
    queries = torch.nn.Parameter(torch.randn(data.query_count, 8) * 0.1)
    items = torch.nn.Parameter(torch.randn(data.item_count, 8) * 0.1)
    optimiser = torch.optim.Adam([queries, items], lr=0.05)
    found = []
    generator = np.random.default_rng(0)
    for epoch in range(steps):
        hard = objective.mine(lambda: (queries.detach(), items.detach()), (0, epoch))
        plan = list(batches(len(objective.pairs), objective.pairs.query, 1000, (0, epoch)))
        candidates = objective.candidates(plan[0], hard, generator)
        scores = queries[plan[0].queries] @ items[candidates.items].T
        loss = objective.losses(scores, plan[0], candidates).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        found.append(float(loss.detach()))
    return np.array(found)


@KINDS
def test_every_loss_falls(kind: str) -> None:
    data = data_of_people(random_people(25, ITEMS), ITEMS)
    losses = losses_of_steps(build_objective(LOSSES[kind], data), data, 40)
    assert np.isfinite(losses).all()
    assert losses[-5:].mean() < 0.8 * losses[:5].mean()
