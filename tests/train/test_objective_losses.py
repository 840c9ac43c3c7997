"""Losses over the candidates: corrected for how they were drawn, and falling."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.train.people import problem_of_people, random_people
from tests.train.test_objective import IN_BATCH, ITEMS, KINDS, LOSSES, drawn, pairs_of, problem_of_pairs
from train.batches import Batch, batches
from train.config import Bpr, InBatchSoftmax, Loss
from train.objective import Objective
from train.problem import Problem
from train.sampling import mixed_log_q


def test_popular_items_are_drawn_as_often_as_alpha_says() -> None:
    pairs = pairs_of([(n, 0 if n < 9 else n - 8) for n in range(12)])  # item 0 nine times, 1 to 3 once
    problem = replace(problem_of_pairs(pairs), item_count=4)
    own = Batch(np.array([11]), np.array([11]), np.array([0]))

    def share(loss: Loss) -> float:
        """Of item 0 among the negatives of the pair of item 3."""
        objective = Objective(loss, problem)
        items: list[int] = []
        generator = np.random.default_rng(0)
        for _ in range(3000):
            given_ = objective.candidates(own, None, generator)
            assert given_.negatives is not None
            items += given_.items[given_.negatives.numpy()].ravel().tolist()
        return items.count(0) / len(items)

    popular = Bpr("bpr", negatives=1, sampling="popularity", alpha=0.5)
    assert share(Bpr("bpr", negatives=1)) == pytest.approx(1 / 3, abs=0.03)
    assert share(popular) == pytest.approx(3 / 5, abs=0.03)
    assert share(replace(popular, alpha=1.0)) == pytest.approx(9 / 11, abs=0.03)


@pytest.mark.parametrize("uniform", [0, 5])
def test_corrections_follow_the_size_of_each_batch(uniform: int) -> None:
    problem = problem_of_people(random_people(60, ITEMS), ITEMS)
    corrected = replace(IN_BATCH, correction="logq", uniform_negatives=uniform)
    objective, plain = Objective(corrected, problem), Objective(IN_BATCH, problem)
    counts = problem.counts()
    share = counts / counts.sum()
    trained = counts > 0
    sizes = set()
    for batch, given_ in drawn(objective, problem, size=20):
        sizes.add(len(batch.pairs))
        scores = torch.zeros(len(batch.queries), len(given_.items))
        log_q = np.full(ITEMS, -np.inf)
        log_q[trained] = mixed_log_q(share[trained], len(batch.pairs), uniform)
        # A score that equals temperature x log q is what the correction takes off.
        raised = scores + IN_BATCH.temperature * torch.from_numpy(log_q[given_.items]).float()
        generator = np.random.default_rng(0)
        torch.testing.assert_close(
            objective.losses(raised, batch, given_, generator), plain.losses(scores, batch, given_, generator)
        )
    assert len(sizes) > 1


def test_no_size_of_a_batch_breaks_a_correction() -> None:
    """Even where as few pairs are left over as can be."""
    for size in range(2, 12):
        problem = problem_of_people([[n % ITEMS, (n + 3) % ITEMS] for n in range(11)], ITEMS)
        for correction in ("logq", "khrylchenko"):
            objective = Objective(InBatchSoftmax("in_batch_softmax", correction=correction), problem)
            for batch, given_ in drawn(objective, problem, size):
                scores = torch.zeros(len(batch.queries), len(given_.items))
                losses = objective.losses(scores, batch, given_, np.random.default_rng(0))
                assert losses.isfinite().all()


def taught(objective: Objective, problem: Problem, steps: int) -> npt.NDArray[np.float64]:
    """Losses of steps over scores of their own for each query and item."""
    torch.manual_seed(0)
    queries = torch.nn.Parameter(torch.randn(problem.query_count, 8) * 0.1)
    items = torch.nn.Parameter(torch.randn(problem.item_count, 8) * 0.1)
    optimiser = torch.optim.Adam([queries, items], lr=0.05)
    found = []
    generator = np.random.default_rng(0)
    for epoch in range(steps):
        hard = objective.mine(lambda: (queries.detach(), items.detach()), (0, epoch))
        plan = list(batches(len(objective.pairs), objective.pairs.query, 1000, (0, epoch)))
        given_ = objective.candidates(plan[0], hard, generator)
        scores = queries[plan[0].queries] @ items[given_.items].T
        loss = objective.losses(scores, plan[0], given_, generator).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        found.append(float(loss.detach()))
    return np.array(found)


@KINDS
def test_every_loss_falls(kind: str) -> None:
    problem = problem_of_people(random_people(25, ITEMS), ITEMS)
    losses = taught(Objective(LOSSES[kind], problem), problem, 40)
    assert np.isfinite(losses).all()
    assert losses[-5:].mean() < 0.8 * losses[:5].mean()
