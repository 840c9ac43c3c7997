"""The training loop.

    every epoch:  mine hard negatives -> a step for each batch -> the metrics on validation
    at the end:   the towers of the best epoch

The loop keeps its whole state in `State`, so that an interrupted run continues as if it had not been
interrupted: the order of the pairs and the negatives follow from (seed, epoch), and the rest is saved.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twinspire.protos.errors import DataError
from twinspire.train.config.losses import LossConfig
from twinspire.train.config.training import TrainingConfig
from twinspire.train.data.batches import Batch, batch_count, batches
from twinspire.train.data.history_batches import HistoryBatches
from twinspire.train.data.training_data import Pairs, Rows, TrainingData
from twinspire.train.evaluation.exact_search import encode, search
from twinspire.train.evaluation.report import evaluate_labels
from twinspire.train.losses.objectives import build_objective
from twinspire.train.metrics import OF_LABELS, as_higher_is_better, mean, per_query
from twinspire.train.models.optimiser import adam, exchange_average, set_learning_rate, update_average
from twinspire.train.models.prepared_inputs import PreparedInputs
from twinspire.train.models.tower_factory import Towers
from twinspire.train.models.towers import paired_products, products, route
from twinspire.train.training.process import SINGLE_PROCESS, TrainingProcess


class Interrupted(Exception):
    """The run was asked to stop, and its state has been saved."""


@dataclass
class State:
    """The state of a run, apart from towers and optimiser.

    Args:
        epoch: the current epoch, from 0.
        step: finished steps of the current epoch.
        best_epoch: the best epoch on validation so far, -1 before the first evaluation.
        best: its validation metric; of log loss, the negative.
        best_ndcg: its nDCG@10 on validation.
        highest: the highest validation metric so far; that of the best epoch may be lower by one query.
        hard_negatives: of the current epoch.
        losses: of all steps.
        history: one record for each finished epoch; record 0 is the start, before any step.
        seconds: of training, in all parts of an interrupted run.
        epoch_seconds: of them, those of the steps of the current epoch.
    """

    epoch: int = 0
    step: int = 0
    best_epoch: int = -1
    best: float = -math.inf
    best_ndcg: float = -1.0
    highest: float = -math.inf
    hard_negatives: Any = None
    losses: list[float] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    epoch_seconds: float = 0.0


class Callbacks:
    """What the trainer calls as it proceeds: progress, tracking and checkpoints; nothing here."""

    def on_epoch_start(
        self, epoch: int, steps: int, done: int, earlier_steps: int
    ) -> Callable[[float], None]:
        """An epoch starts; the result is called with the loss of each step.

        Args:
            epoch: from 0.
            steps: of this epoch; where queries have histories, their number differs between epochs.
            done: steps of this epoch that are done.
            earlier_steps: of all earlier epochs.
        """
        return lambda loss: None

    def on_epoch_end(self, epoch: int, record: dict[str, float]) -> None:
        """An epoch ended with these metrics; epoch 0 is the start, before any step."""

    def on_checkpoint(self, trainer: "Trainer") -> None:
        """The state is to be saved."""

    def on_best(self, trainer: "Trainer") -> None:
        """The towers are the best so far."""

    def should_stop(self) -> bool:
        """Whether to save the state and stop after this step."""
        return False

    def repeatable(self) -> AbstractContextManager[None]:
        """Around work that a resumed run does again: raises `Interrupted` in it to stop at once."""
        return nullcontext()


class Trainer:
    """Trains two towers.

    Args:
        prepared: the inputs of all queries and of all items, as the towers read them.
        shared_windows: queries of one user share windows of their history; for query towers that encode
            every place of a window at little extra cost.
    """

    def __init__(
        self,
        towers: Towers,
        data: TrainingData,
        prepared: tuple[PreparedInputs, PreparedInputs],
        loss: LossConfig,
        config: TrainingConfig,
        shared_windows: bool = False,
        process: TrainingProcess = SINGLE_PROCESS,
    ) -> None:
        self.towers = towers
        self.data = data
        self.queries, self.items = prepared
        self.config = config
        self.process = process
        self.objective = build_objective(loss, data)
        self.pairs = self.objective.pairs
        process.place_towers(towers)
        self.optimiser = adam(towers, config.learning_rate, config.weight_decay)
        process.begin(towers, self.optimiser)
        self.history_batches: HistoryBatches | None = None
        histories = next(iter(self.queries.histories.values()), None)
        if histories is not None:
            self.history_batches = HistoryBatches(self.pairs, histories, config.batch_size, shared_windows)
        self.state = State()
        self._steps = 0  # batches of the current epoch
        self._begun = time.perf_counter()
        self._item_vectors: Tensor | None = None  # by the current weights, once computed

    def fit(self, callbacks: Callbacks) -> None:
        """Train from the current state until patience or epochs run out.

        Raises:
            Interrupted: the callbacks asked to stop; the state has been saved.
            DataError: `training.selection` is of labels, and those of the validation part are all alike, or
                the towers predict no probability.
        """
        state, config = self.state, self.config
        with self._saved_on_interrupt(callbacks):
            if not state.history:
                self._end_epoch(callbacks, 0)
            while state.epoch < config.epochs and state.epoch - state.best_epoch < config.patience:
                self._epoch(callbacks)
                self._end_epoch(callbacks, state.epoch + 1)
        self.process.tables.join()

    def refit(self, callbacks: Callbacks, epochs: int) -> None:
        """Train from the current state to the end of an epoch, and evaluate nothing.

        Afterwards the towers have averaged weights, where the configuration asks for an average.

        Args:
            callbacks: as of `fit`; `on_best` is not called.
            epochs: that are done at the end.

        Raises:
            Interrupted: the callbacks asked to stop; the state has been saved.
        """
        state = self.state
        with self._saved_on_interrupt(callbacks):
            while state.epoch < epochs:
                self._epoch(callbacks)
                record = self._training_record()
                state.epoch += 1
                state.history.append(record)
                callbacks.on_epoch_end(state.epoch, record)
                state.step, state.epoch_seconds = 0, 0.0
                self._checkpoint(callbacks)
        self._exchange_average()
        self.process.tables.join()

    @contextmanager
    def _saved_on_interrupt(self, callbacks: Callbacks) -> Iterator[None]:
        """Time the training in this block, and save the state where it is interrupted."""
        self._begun = time.perf_counter() - self.state.seconds
        try:
            yield
        except Interrupted:
            self._checkpoint(callbacks)
            raise

    def _checkpoint(self, callbacks: Callbacks) -> None:
        self.state.seconds = time.perf_counter() - self._begun
        with self.process.tables.whole(with_states=True):
            callbacks.on_checkpoint(self)

    def _repeatable(self, callbacks: Callbacks) -> AbstractContextManager[None]:
        """As of the callbacks; where all processes save a state together, none stops without the others."""
        return nullcontext() if any(self.process.tables) else callbacks.repeatable()

    def _epoch(self, callbacks: Callbacks) -> None:
        state = self.state
        begun = time.perf_counter() - state.epoch_seconds
        with self._repeatable(callbacks):
            if state.step == 0:
                state.hard_negatives = self._mined()
        self._steps, drawn = self._batches()
        report_loss = callbacks.on_epoch_start(
            state.epoch, self._steps, state.step, len(state.losses) - state.step
        )
        for batch in drawn:
            self._train_on(batch)
            state.epoch_seconds = time.perf_counter() - begun
            report_loss(state.losses[-1])
            if self.process.sum(np.array([callbacks.should_stop()], np.int64))[0]:  # all ranks stop together
                raise Interrupted

    def _train_on(self, batch: Batch) -> None:
        """Take the next step of the epoch; all processes do so together."""
        state = self.state
        epochs_done = state.epoch + state.step / self._steps
        set_learning_rate(self.optimiser, epochs_done, self.config.epochs, self._steps)
        state.losses.append(self._step(batch))
        state.step += 1
        if self.config.average_epochs:
            update_average(self.optimiser, self.config.average_epochs * self._steps, len(state.losses))

    def _exchange_average(self) -> None:
        """Put averaged weights in the place of the towers or back, where the configuration asks for them."""
        if self.config.average_epochs:
            exchange_average(self.optimiser)
            self.clear_cached_vectors()

    def _batches(self) -> tuple[int, Iterable[Batch]]:
        """The number of batches of the current epoch, and those that are not done."""
        seed = (self.config.seed, self.state.epoch)
        if self.history_batches is not None:
            drawn = self.history_batches.draw(seed)
            return len(drawn), drawn.after(self.state.step)
        count, size = len(self.pairs), self.config.batch_size
        every = batches(count, self.pairs.query, size, seed)
        return batch_count(count, size), itertools.islice(every, self.state.step, None)

    def _step(self, batch: Batch) -> float:
        query_tower, item_tower = self.towers
        process = self.process
        seed = (self.config.seed, self.state.epoch, self.state.step)
        generator = np.random.default_rng(seed)
        process.seed(int(generator.integers(2**63)))  # of dropout, so that a resumed run is the same
        given = self.objective.candidates(batch, self.state.hard_negatives, generator)
        own, pairs = process.share(batch)  # B queries and P pairs
        queries = None
        if len(own.queries):
            queries = process.encode(
                query_tower, own.queries, lambda rows: self.queries.batch(rows, own.spans)
            )  # (B, D)
        else:
            process.encode_none(query_tower)
        items = process.encode(item_tower, given.items, self.items.batch, for_all=True)  # (N, D)
        candidates = process.place(given.of_pairs(pairs))
        if queries is not None and queries.shape[1] != items.shape[1]:  # several vectors, of which one counts
            query = process.place(torch.from_numpy(own.query))
            queries = route(queries, query, items[candidates.positive])  # (P, D)
        scores = query_tower.head.logits(products(items[:0] if queries is None else queries, items))
        losses = self.objective.losses(scores, own, candidates)  # (P,)
        weight = process.place(torch.from_numpy(self.pairs.weight[batch.pairs]))  # of all pairs of the step
        own_weight = weight if pairs is None else weight[pairs]
        share = (losses * own_weight).sum() / weight.sum().clamp(min=1e-12)  # all weights may be 0
        self._item_vectors = None
        return process.step(share, self.optimiser)

    def _end_epoch(self, callbacks: Callbacks, epoch: int) -> None:
        """Evaluate; only then the epoch counts as finished, so that a resumed run evaluates again."""
        self._exchange_average()
        try:
            self._evaluate_epoch(callbacks, epoch)
        finally:
            self._exchange_average()
        self.state.step, self.state.epoch_seconds = 0, 0.0
        self._checkpoint(callbacks)

    def _evaluate_epoch(self, callbacks: Callbacks, epoch: int) -> None:
        state = self.state
        with self._repeatable(callbacks):
            record = {f"validation_{k}": v for k, v in self.evaluate("validation").items()}
        if epoch:
            record |= self._training_record()
        record = self.process.from_rank_0(record)  # by which all ranks decide alike
        state.epoch = epoch
        state.history.append(record)
        callbacks.on_epoch_end(state.epoch, record)
        selection = self.config.selection
        metric = record.get(f"validation_{selection}")
        if metric is None:  # only those of labels can be missing
            why = "validation pairs are all positive or all not"
            if "validation_auc" in record:
                why = "these towers predict no probability"
            raise DataError(f'training.selection = "{selection}", but {why}')
        metric = as_higher_is_better(selection, metric)
        if self._is_best(metric, record["validation_ndcg_at_10"]):
            state.best, state.best_ndcg = metric, record["validation_ndcg_at_10"]
            state.best_epoch = state.epoch
            with self.process.tables.whole():
                callbacks.on_best(self)

    def _training_record(self) -> dict[str, float]:
        """Loss and time of the epoch whose last step is done."""
        state = self.state
        return {
            "loss": float(np.mean(state.losses[-state.step :])),
            "epoch_s": state.epoch_seconds,
            "pairs_per_s": len(self.pairs) / state.epoch_seconds,
        }

    def _is_best(self, metric: float, ndcg: float) -> bool:
        """Whether an epoch replaces the one that is kept, and remember the highest metric.

        Recall and hit rate count queries, and one query more or less is chance. An epoch within one query of
        the highest so far replaces the kept one if that is further below, or has a lower nDCG@10, which all
        queries change. An epoch that was not kept does not come back.
        """
        state = self.state
        state.highest = max(state.highest, metric)
        lowest = state.highest
        if self.config.selection in ("recall_at_10", "hr_at_10"):
            lowest -= 1 / len(np.unique(self.data.parts["validation"].positive().query)) + 1e-9
        if metric < lowest:
            return False
        return state.best < lowest or (self.config.selection not in OF_LABELS and ndcg > state.best_ndcg)

    def evaluate(self, part: str) -> dict[str, float]:
        """Metrics of the current towers on one part of the split, by exact search over all items."""
        queries, relevant = self.data.parts[part].by_query()
        found = mean(per_query(self.rank(queries), relevant))
        score = self.towers[0].head.score()
        return found | evaluate_labels(self.data, part, self.inner_products, score, draws=0)

    def rank(self, queries: Rows, items: PreparedInputs | None = None) -> Rows:
        """The best items of some queries, (Q, K) item rows, -1 where fewer than K are left.

        Args:
            items: other values of the items, such as the texts that are served.
        """
        place = self.process.place
        # Before the queries, because `item_vectors` sets the radius of an inner product.
        vectors = self.item_vectors() if items is None else encode(self.towers[1], items, place=place)
        return search(self.query_vectors(queries), vectors, seen=self.data.seen(queries))

    def inner_products(self, pairs: Pairs) -> npt.NDArray[np.float32]:
        """(P,): the inner product of each pair's vectors; of a query of several, the largest."""
        items = self.item_vectors()
        distinct, query = np.unique(pairs.query, return_inverse=True)
        vectors = self.query_vectors(distinct)
        left, right = (self.process.place(torch.from_numpy(rows)) for rows in (query, pairs.item))
        return paired_products(vectors[left], items[right]).cpu().numpy()

    def item_vectors(self) -> Tensor:
        """Unit vectors (N, D) of all items, by the current item tower.

        Sets the radius of an inner product to fit the longest item.
        """
        if self._item_vectors is None:
            vectors = self.process.encode_all(self.towers[1], self.items)
            self._item_vectors = self.towers[1].head.fit_to_catalogue(vectors)
        return self._item_vectors

    def clear_cached_vectors(self) -> None:
        """Encode the items again when their vectors are next used; call it after changing the towers."""
        self._item_vectors = None

    def query_vectors(self, queries: Rows | None = None) -> Tensor:
        """Vectors (Q, D) of some queries, or of all, by the current query tower."""
        return self.process.encode_all(self.towers[0], self.queries, queries)

    def _mined(self) -> Rows | None:
        """Hard negatives of the current epoch; each process mines for a share of the pairs."""
        share = (self.process.rank, self.process.count)
        seed = (self.config.seed, self.state.epoch)
        mined = self.objective.mine(lambda: (self.query_vectors(), self.item_vectors()), seed, share)
        return None if mined is None else self.process.sum(mined)
