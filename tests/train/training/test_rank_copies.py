"""Two ranks with a copy of the towers each, as on two cards; they exchange over gloo instead of NCCL."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from protos.errors import Unavailable
from tests.train.losses.test_objective import IN_BATCH
from tests.train.training.test_ranks import (
    CASES,
    LABELS,
    averaged_weights_are_those_of_one_process,
    in_doubles,
    of_people,
    of_texts,
    parameters,
)
from tests.train.training.test_trainer import Watcher
from train.config import LossConfig
from train.evaluation.exact_search import BLOCK
from train.training.device import CPU
from train.training.rank_processes import Ranks
from train.training.trainer import Trainer

pytestmark = pytest.mark.exhaustive


@pytest.fixture(scope="module")
def copies() -> Iterator[Ranks]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with Ranks(2, 1, cards=(CPU, CPU)).started() as started:
        yield started
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("kind", "made"),
    [
        ("in batch, hard", of_people),
        ("in batch, logq", of_texts),
        ("full", of_people),
        ("sampled", of_texts),
        ("labels", of_texts),
    ],
)
def test_two_ranks_with_copies_of_the_towers_train_as_one_process(
    kind: str, made: Callable[[LossConfig], Trainer], copies: Ranks
) -> None:
    """Each step's loss and the towers in the end, in double precision, in which nothing drifts."""
    loss = LABELS if kind == "labels" else CASES[kind]
    one, both = (in_doubles(made(loss)) for _ in range(2))
    an_epoch_ends_alike(copies, one, both)


def an_epoch_ends_alike(ranks: Ranks, one: Trainer, both: Trainer) -> None:
    """The losses of an epoch of one process and of ranks, and the towers in the end."""
    for each in (one, both):
        each.config = replace(each.config, epochs=1)
    one.fit(Watcher())
    with ranks.training(both):
        both.fit(Watcher())
    np.testing.assert_allclose(both.state.losses, one.state.losses, 1e-6, 1e-6)
    for ours, theirs in zip(parameters(both), parameters(one), strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-5, atol=1e-6)
    both._step(next(iter(both._batches()[1])))  # and then it is one process again


def test_ranks_with_copies_of_the_towers_average_the_weights_as_one_process_does(copies: Ranks) -> None:
    averaged_weights_are_those_of_one_process(copies, lambda: of_people(CASES["full"]))


def test_a_copy_of_the_towers_is_not_shared_with_the_other_rank(copies: Ranks) -> None:
    trainer = of_texts(IN_BATCH)
    with copies.training(trainer):
        with torch.no_grad():
            for each in parameters(trainer):
                each.zero_()  # of rank 0 alone
        vectors = trainer._vectors(0, np.arange(2 * BLOCK) % 20)  # of which the other encodes the second half
    assert not vectors[:BLOCK].any()
    assert vectors[BLOCK:].any()


def test_too_little_shared_memory_for_copies_is_said_before_they_are_sent(
    copies: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        f_bavail, f_frsize = 1, 1024

    with monkeypatch.context() as patched:
        patched.setattr("train.training.ranks.os.statvfs", lambda path: Full)
        patched.setattr("train.training.ranks.SHARED_MEMORY", Path("/"))
        said = r"vectors need \d+ MiB of shared memory, 0 MiB are free; in Docker, --shm-size"
        with pytest.raises(Unavailable, match=said), copies.training(of_texts(IN_BATCH)):
            pytest.fail("it has been sent")
    with copies.training(of_texts(IN_BATCH)) as _:  # the other rank still waits
        pass
