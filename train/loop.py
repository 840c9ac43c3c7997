"""The training loop.

    every epoch:  mine hard negatives -> a step for each batch -> the metrics on validation
    at the end:   the best epoch's towers

All that the loop is lies in its `State`, so that a run that was stopped goes on as if it had not been:
the order of the pairs and the negatives follow from (seed, epoch), and everything else is saved.
"""

import itertools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from protos.errors import DataError
from train.batches import Batch, HistoryBatches, batch_count, batches
from train.config import Loss, TrainingConfig
from train.corpus import Corpus
from train.evaluation import encode, encode_catalogue, search
from train.figures import label_figures
from train.heads import logits_of, score_of
from train.metrics import mean, per_query
from train.objective import Objective
from train.optimiser import adam, set_learning_rate
from train.problem import Pairs, Problem
from train.towers import Tower

Towers = tuple[Tower, Tower]
Rows = npt.NDArray[np.int64]


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
    """Two towers, what they learn from, and where they are in it.

    Args:
        shared_windows: queries of one user share windows of their history; for towers that read every
            place of a window at little cost.
    """

    def __init__(
        self,
        towers: Towers,
        problem: Problem,
        corpora: tuple[Corpus, Corpus],
        loss: Loss,
        config: TrainingConfig,
        shared_windows: bool = False,
    ) -> None:
        self.towers = towers
        self.problem = problem
        self.queries, self.items = corpora
        self.config = config
        self.objective = Objective(loss, problem)
        self.pairs = self.objective.pairs
        self.optimiser = adam(towers, config.learning_rate)
        self.plan: HistoryBatches | None = None
        for histories in self.queries.histories.values():
            self.plan = HistoryBatches(self.pairs, histories, config.batch_size, shared_windows)
        self.state = State()
        self._item_vectors: Tensor | None = None  # of the towers as they are, once computed

    def fit(self, observer: Observer) -> None:
        """Train from the state on until patience or epochs run out.

        Raises:
            Interrupted: the observer asked to stop; the state has been saved.
            DataError: the epoch is to be chosen by AUC, and validation has no labels to tell apart.
        """
        state = self.state
        if not state.history:
            self._end_epoch(observer, seconds=0.0)
        while state.epoch < self.config.epochs and not self._out_of_patience():
            begun = time.perf_counter()
            self._epoch(observer)
            state.epoch += 1
            self._end_epoch(observer, time.perf_counter() - begun)

    def _out_of_patience(self) -> bool:
        return self.state.epoch - self.state.best_epoch >= self.config.patience

    def _epoch(self, observer: Observer) -> None:
        state, config = self.state, self.config
        if state.step == 0:
            state.hard = self.objective.mine(self._encoded, (config.seed, state.epoch))
        count, plan = self._batches()
        report = observer.steps(state.epoch, count, state.step)
        for batch in itertools.islice(plan, state.step, None):
            set_learning_rate(self.optimiser, state.epoch + state.step / count, config.epochs, count)
            state.losses.append(self._step(batch))
            state.step += 1
            report(state.losses[-1])
            if observer.stop_requested():
                observer.save(self)
                raise Interrupted

    def _batches(self) -> tuple[int, Iterable[Batch]]:
        """The batches of the epoch under way, and how many they are."""
        seed = (self.config.seed, self.state.epoch)
        if self.plan is not None:
            drawn = self.plan.draw(seed)
            return len(drawn), drawn
        count, size = len(self.pairs), self.config.batch_size
        return batch_count(count, size), batches(count, self.pairs.query, size, seed)

    def _step(self, batch: Batch) -> float:
        query_tower, item_tower = self.towers
        seed = (self.config.seed, self.state.epoch, self.state.step)
        generator = np.random.default_rng(seed)
        torch.manual_seed(int(generator.integers(2**63)))  # of dropout, so that a resumed run is the same
        given = self.objective.candidates(batch, self.state.hard, generator)
        queries = query_tower(self.queries.batch(batch.queries, batch.spans))  # (B, D)
        items = item_tower(self.items.batch(given.items))  # (N, D)
        scores = logits_of(query_tower, queries @ items.T)
        losses = self.objective.losses(scores, batch, given, generator)  # (P,)
        weight = torch.from_numpy(self.pairs.weight[batch.pairs])
        loss = (losses * weight).sum() / weight.sum().clamp(min=1e-12)  # which may be 0
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self._item_vectors = None
        return float(loss.detach())

    def _encoded(self) -> tuple[Tensor, Tensor]:
        """Vectors of all queries and of all items."""
        return encode(self.towers[0], self.queries), self.item_vectors()

    def _end_epoch(self, observer: Observer, seconds: float) -> None:
        state = self.state
        record = {f"validation_{k}": v for k, v in self.evaluate("validation").items()}
        if seconds:
            record["loss"] = float(np.mean(state.losses[-state.step :]))
            record["epoch_s"] = seconds
            record["pairs_per_s"] = len(self.pairs) / seconds
        state.history.append(record)
        observer.epoch(record, state.epoch)
        figure = record.get(f"validation_{self.config.selection}")
        if figure is None:  # only AUC may be lacking
            raise DataError('training.selection = "auc", but validation pairs are all positive or all not')
        if figure > state.best:
            state.best = figure
            state.best_epoch = state.epoch
            observer.best(self)
        state.step = 0
        observer.save(self)

    def evaluate(self, part: str) -> dict[str, float]:
        """Metrics of the towers as they are, on one part, by exact search over all items."""
        queries, relevant = self.problem.parts[part].by_query()
        found = mean(per_query(self.rank(queries), relevant))
        return found | label_figures(self.problem, part, self.products, score_of(self.towers[0]))

    def rank(self, queries: Rows) -> Rows:
        """The items that the towers rank first for some queries, (Q, K) rows, -1 where there is none."""
        items = self.item_vectors()  # first, because it settles how vectors are compared
        vectors = encode(self.towers[0], self.queries, queries)
        return search(vectors, items, seen=self.problem.seen(queries))

    def products(self, pairs: Pairs) -> npt.NDArray[np.float32]:
        """(P,): the inner product of each pair's vectors."""
        items = self.item_vectors()
        distinct, query = np.unique(pairs.query, return_inverse=True)
        vectors = encode(self.towers[0], self.queries, distinct)
        return (vectors[query] * items[pairs.item]).sum(dim=1).numpy()

    def forget_vectors(self) -> None:
        """The towers were changed from outside."""
        self._item_vectors = None

    def item_vectors(self) -> Tensor:
        """Unit vectors (N, D) of all items, by the item tower as it is."""
        if self._item_vectors is None:
            self._item_vectors = encode_catalogue(self.towers[1], self.items)
        return self._item_vectors
