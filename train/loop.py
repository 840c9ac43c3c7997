"""The training loop.

    every epoch:  mine hard negatives -> a step for each batch -> recall@10 on validation
    at the end:   the best epoch's towers

All that the loop is lies in its `State`, so that a run that was stopped goes on as if it had not been:
the order of the pairs and the negatives follow from (seed, epoch), and everything else is saved.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from protos.errors import DataError
from train.batches import Batch, batch_count, batches, mine
from train.config import InBatchSoftmax, SampledSoftmax, TrainingConfig
from train.corpus import Corpus
from train.evaluation import encode, search
from train.losses import in_batch_softmax, sampled_softmax
from train.metrics import mean, per_query
from train.optimiser import adam, set_learning_rate
from train.problem import Positives, Problem
from train.towers import Tower

Towers = tuple[Tower, Tower]
SELECTION_METRIC = "recall_at_10"


class Interrupted(Exception):
    """The run was asked to stop, and its state has been saved."""


@dataclass
class State:
    """Where a run stands, apart from towers and optimiser.

    Args:
        epoch: the epoch that is under way, from 0.
        step: steps done in it.
        best_epoch: the epoch of the best validation figure so far, -1 before the first.
        best: that figure.
        hard: hard negatives of the epoch under way.
        losses: of all steps.
        history: one record for each epoch that has ended; record 0 is the start, before any step.
    """

    epoch: int = 0
    step: int = 0
    best_epoch: int = -1
    best: float = -1.0
    hard: Any = None
    losses: list[float] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)


class Observer(Protocol):
    """Who is told how a run goes, and keeps its state."""

    def steps(self, epoch: int, total: int, done: int) -> Callable[[float], None]:
        """An epoch begins; the result is called with the loss after each step."""

    def epoch(self, record: dict[str, float], number: int) -> None:
        """Epoch `number` has ended; 0 is the start, before any step."""

    def save(self, trainer: "Trainer") -> None:
        """The state changed in a way that should not be lost."""

    def best(self, trainer: "Trainer") -> None:
        """The towers are the best so far."""

    def stop_requested(self) -> bool:
        """Whether to save and stop after this step."""


class Trainer:
    """Two towers, what they learn from, and where they are in it."""

    def __init__(
        self,
        towers: Towers,
        problem: Problem,
        corpora: tuple[Corpus, Corpus],
        loss: InBatchSoftmax | SampledSoftmax,
        config: TrainingConfig,
    ) -> None:
        self.towers = towers
        self.problem = problem
        self.queries, self.items = corpora
        self.loss = loss
        self.config = config
        self.pairs = problem.parts["train"]
        if len(self.pairs) < 2:
            raise DataError("the train part of the split holds a single pair: nothing can be told apart")
        self.positives = Positives.of(self.pairs, problem.query_count)
        self.optimiser = adam(towers, config.learning_rate)
        self.epoch_steps = batch_count(len(self.pairs), config.batch_size)
        self.state = State()
        self._item_vectors: Tensor | None = None  # of the towers as they are, once computed

    def fit(self, observer: Observer) -> None:
        """Train from the state on until patience or epochs run out.

        Raises:
            Interrupted: the observer asked to stop; the state has been saved.
        """
        state = self.state
        if not state.history:
            self._end_epoch(observer, seconds=0.0)
        while state.epoch < self.config.epochs and not self._out_of_patience():
            begun = time.perf_counter()
            self._epoch(observer)
            state.epoch += 1
            state.step = 0
            self._end_epoch(observer, time.perf_counter() - begun)

    def _out_of_patience(self) -> bool:
        return self.state.epoch - self.state.best_epoch >= self.config.patience

    def _epoch(self, observer: Observer) -> None:
        state = self.state
        if state.step == 0:
            state.hard = self._mine()
        report = observer.steps(state.epoch, self.epoch_steps, state.step)
        for batch in self._remaining():
            total = self.config.epochs * self.epoch_steps
            done = state.epoch * self.epoch_steps + state.step
            set_learning_rate(self.optimiser, done, total)
            state.losses.append(self._step(batch))
            state.step += 1
            report(state.losses[-1])
            if observer.stop_requested():
                observer.save(self)
                raise Interrupted

    def _remaining(self) -> Iterator[Batch]:
        config, state = self.config, self.state
        plan = batches(self.pairs, self.positives, state.hard, config.batch_size, (config.seed, state.epoch))
        for number, batch in enumerate(plan):
            if number >= state.step:
                yield batch

    def _step(self, batch: Batch) -> float:
        query_tower, item_tower = self.towers
        queries = query_tower(self.queries.batch(batch.queries))  # (B, D)
        items = item_tower(self.items.batch(batch.items))  # (N, D)
        total = batch.weight.sum().clamp(min=1e-12)  # which may be 0
        loss = (self._loss(queries @ items.T, batch) * batch.weight).sum() / total
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self._item_vectors = None
        return float(loss.detach())

    def _loss(self, scores: Tensor, batch: Batch) -> Tensor:
        if isinstance(self.loss, InBatchSoftmax):
            return in_batch_softmax(scores, batch.positive, batch.same, self.loss.temperature)
        negatives = draw_negatives(batch.same, self.loss.negatives, self._generator())
        positive = scores.gather(1, batch.positive[:, None])[:, 0]
        return sampled_softmax(positive, scores.gather(1, negatives), self.loss.gamma)

    def _generator(self) -> torch.Generator:
        seed = np.random.SeedSequence([self.config.seed, self.state.epoch, self.state.step])
        return torch.Generator().manual_seed(int(seed.generate_state(1, np.uint64)[0] >> 1))

    def _mine(self) -> Any:
        wanted = self.loss.hard_negatives if isinstance(self.loss, InBatchSoftmax) else 0
        if not wanted or not isinstance(self.loss, InBatchSoftmax):
            return None
        queries = encode(self.towers[0], self.queries)
        return mine(
            queries,
            self.item_vectors(),
            self.pairs,
            self.positives,
            wanted,
            self.loss.mine_from,
            (self.config.seed, self.state.epoch),
        )

    def _end_epoch(self, observer: Observer, seconds: float) -> None:
        state = self.state
        record = {f"validation_{k}": v for k, v in self.evaluate("validation").items()}
        if seconds:
            record["loss"] = float(np.mean(state.losses[-self.epoch_steps :]))
            record["epoch_s"] = seconds
            record["pairs_per_s"] = len(self.pairs) / seconds
        state.history.append(record)
        observer.epoch(record, state.epoch)
        if record[f"validation_{SELECTION_METRIC}"] > state.best:
            state.best = record[f"validation_{SELECTION_METRIC}"]
            state.best_epoch = state.epoch
            observer.best(self)
        observer.save(self)

    def evaluate(self, part: str) -> dict[str, float]:
        """Metrics of the towers as they are, on one part, by exact search over all items."""
        queries, relevant = self.problem.parts[part].by_query()
        vectors = encode(self.towers[0], self.queries, queries)
        return mean(per_query(search(vectors, self.item_vectors()), relevant))

    def forget_vectors(self) -> None:
        """The towers were changed from outside."""
        self._item_vectors = None

    def item_vectors(self) -> Tensor:
        """Unit vectors (N, D) of all items, by the item tower as it is."""
        if self._item_vectors is None:
            self._item_vectors = encode(self.towers[1], self.items)
        return self._item_vectors


def draw_negatives(same: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """For each query `count` random columns that are no known positive: int64 (B, count).

    The columns of a batch are random items of training pairs, so a draw from them is one.
    """
    weights = (~same).float()
    weights[weights.sum(dim=1) == 0] = 1.0  # a batch of one query's positives has no negatives
    return torch.multinomial(weights, count, replacement=True, generator=generator)
