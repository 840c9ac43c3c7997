"""What a step minimises: the candidates that a batch's queries are compared with, and the loss over them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from protos.errors import DataError
from train.batches import Batch
from train.config import Bce, Bpr, FullSoftmax, Hinge, InBatchSoftmax, Loss, SampledSoftmax
from train.losses import full_softmax, in_batch_softmax, sampled_softmax
from train.mining import mine
from train.pairwise import bce, bpr, hinge, labelled_bce
from train.problem import Pairs, Positives, Problem
from train.sampling import Sampler, mixed_log_q, popularity

Rows = npt.NDArray[np.int64]
Encoded = Callable[[], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Candidates:
    """The items that one step compares its queries with.

    Args:
        items: int64 (N,), distinct item rows.
        positive: int64 (P,), the column of each pair's own item.
        known: bool (P, N), true where the item is no negative of the pair's query; None if nowhere.
        negatives: int64 (P, J), columns of the items sampled for each pair; None where the loss takes all.
    """

    items: Rows
    positive: Tensor
    known: Tensor | None
    negatives: Tensor | None = None


class Objective:
    """A loss over one problem's training pairs.

    Args:
        loss: the configuration.
        problem: what is learned from.

    Raises:
        DataError: the training pairs hold no positive one, or a single pair.
    """

    def __init__(self, loss: Loss, problem: Problem) -> None:
        self.loss = loss
        self.problem = problem
        self.labelled = isinstance(loss, Bce) and not loss.negatives
        pairs = problem.parts["train"]
        self.pairs: Pairs = pairs if self.labelled else pairs.positive()
        if len(self.pairs) < 2:
            raise DataError("the train part of the split holds a single pair: nothing can be told apart")
        if self.labelled and self.pairs.label is None:
            raise DataError("loss.negatives = 0, but every training pair is positive: nothing to tell apart")
        self.positives = Positives.of(self.pairs, problem.query_count)
        counts = problem.counts()
        if not counts.any():
            raise DataError("the train part of the split holds no positive pair")
        self._trained = np.flatnonzero(counts)
        self._share = counts / counts.sum()
        self._log_q: dict[int, Tensor] = {}  # by pairs in a batch
        self._sampler: Sampler | None = None
        if isinstance(loss, Bce | Hinge | Bpr) and not self.labelled:
            popular = loss.sampling == "popularity"
            self._sampler = Sampler.of(popularity(self._share, loss.alpha if popular else 0.0))

    def mine(self, encoded: Encoded, seed: tuple[int, int]) -> Rows | None:
        """Hard negatives of each pair for the epoch to come, (P, J) item rows, where the loss wants any.

        Args:
            encoded: gives the vectors of all queries and of all items as they are.
        """
        wanted, depth = self._hard()
        if not wanted:
            return None
        queries, items = encoded()
        return mine(queries, items, self.pairs, self.positives, wanted, depth, seed, self._seen_marks)

    def _hard(self) -> tuple[int, int]:
        if isinstance(self.loss, InBatchSoftmax):
            return self.loss.hard_negatives, self.loss.mine_from
        if isinstance(self.loss, Bce | Hinge | Bpr) and self.loss.sampling == "hard":
            return self.loss.negatives, self.loss.mine_from
        return 0, 0

    def candidates(self, batch: Batch, hard: Rows | None, generator: np.random.Generator) -> Candidates:
        """The items that a batch is compared with."""
        own = self.pairs.item[batch.pairs]
        if isinstance(self.loss, FullSoftmax):
            items, known = self._trained, self._seen(batch, self._trained)
            return Candidates(items, _columns(items, own), known)
        if isinstance(self.loss, InBatchSoftmax | SampledSoftmax):
            extra = [own] if hard is None else [own, hard[batch.pairs].ravel()]
            if isinstance(self.loss, InBatchSoftmax) and self.loss.uniform_negatives:
                extra.append(generator.choice(self._trained, self.loss.uniform_negatives))
            items = np.unique(np.concatenate(extra))
            return Candidates(items, _columns(items, own), self._known(batch, items))
        if self.labelled:
            items = np.unique(own)
            return Candidates(items, _columns(items, own), None)
        drawn = hard[batch.pairs] if hard is not None else self._draw(batch, generator)
        items = np.unique(np.concatenate([own, drawn.ravel()]))
        known = self._known(batch, items)
        return Candidates(items, _columns(items, own), known, _columns(items, drawn))

    def _draw(self, batch: Batch, generator: np.random.Generator) -> Rows:
        assert self._sampler is not None and isinstance(self.loss, Bce | Hinge | Bpr)
        queries = self.pairs.query[batch.pairs]
        return self._sampler.draw(queries, self.positives, self.loss.negatives, generator)[0]

    def _corrections(self, batch: Batch, given: Candidates) -> Tensor | None:
        """(N,): log of how likely each candidate is to be one, where the loss is corrected for that."""
        loss = self.loss
        if not isinstance(loss, InBatchSoftmax) or loss.correction == "none":
            return None
        size = len(batch.pairs)
        if size not in self._log_q:
            log_q = np.full(len(self._share), -np.inf, np.float32)
            log_q[self._trained] = mixed_log_q(self._share[self._trained], size, loss.uniform_negatives)
            self._log_q = {size: torch.from_numpy(log_q)}
        return self._log_q[size][torch.from_numpy(given.items)]

    def losses(
        self, scores: Tensor, batch: Batch, given: Candidates, generator: np.random.Generator
    ) -> Tensor:
        """(P,) from scores (B, N) of the batch's queries and candidates."""
        loss = self.loss
        scores = scores[torch.from_numpy(batch.query)] if len(batch.query) != len(scores) else scores
        if isinstance(loss, FullSoftmax):
            return full_softmax(scores, given.positive, given.known, loss.temperature, loss.label_smoothing)
        if isinstance(loss, InBatchSoftmax):
            assert given.known is not None
            log_q = self._corrections(batch, given)
            return in_batch_softmax(
                scores, given.positive, given.known, loss.temperature, loss.correction, log_q
            )
        positive = scores.gather(1, given.positive[:, None])[:, 0]
        if isinstance(loss, SampledSoftmax):
            assert given.known is not None
            negatives = draw_columns(given.known, loss.negatives, generator)
            return sampled_softmax(positive, scores.gather(1, negatives), loss.gamma)
        return self._pairwise(scores, positive, batch, given)

    def _pairwise(self, scores: Tensor, positive: Tensor, batch: Batch, given: Candidates) -> Tensor:
        loss = self.loss
        if self.labelled:
            assert isinstance(loss, Bce) and self.pairs.label is not None
            labels = torch.from_numpy(self.pairs.label[batch.pairs])
            return labelled_bce(positive, labels, loss.positive_weight, loss.focal_gamma)
        assert given.negatives is not None and given.known is not None
        sampled, known = scores.gather(1, given.negatives), given.known.gather(1, given.negatives)
        if isinstance(loss, Bce):
            return bce(positive, sampled, known, loss.positive_weight, loss.focal_gamma)
        if isinstance(loss, Hinge):
            return hinge(positive, sampled, known, loss.margin)
        return bpr(positive, sampled, known)

    def _known(self, batch: Batch, items: Rows) -> Tensor:
        """Bool (P, N): is the item a positive of the query by any pair, or in a history that it ends?"""
        place, item = self.positives.of_queries(batch.queries)
        known = _marked(len(batch.queries), items, place, item)
        seen = self._seen_marks(batch.queries, items)
        if seen is not None:
            known |= seen
        return torch.from_numpy(known)[torch.from_numpy(batch.query)]

    def _seen(self, batch: Batch, items: Rows) -> Tensor | None:
        """Bool (P, N): is the item in the query's history, and so no answer?

        A query's other positives stay in the sum over the catalogue: together with its own pair's they
        are a multinomial likelihood (Liang et al. 2018, equation 2).
        """
        seen = self._seen_marks(batch.queries, items)
        return None if seen is None else torch.from_numpy(seen)[torch.from_numpy(batch.query)]

    def _seen_marks(self, queries: Rows, items: Rows) -> npt.NDArray[np.bool_] | None:
        if self.problem.histories is None or not self.problem.exclude_seen:
            return None
        rows = self.problem.seen(queries)
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        place = np.repeat(np.arange(len(queries)), lengths)
        return _marked(len(queries), items, place, np.concatenate(rows) if len(rows) else place)


def _columns(items: Rows, wanted: Rows) -> Tensor:
    """The places of some items among distinct sorted ones."""
    return torch.from_numpy(np.searchsorted(items, wanted))


def _marked(count: int, items: Rows, place: Rows, item: Rows) -> npt.NDArray[np.bool_]:
    """Bool (count, N): true at each (place, item) whose item is among the N."""
    column = np.searchsorted(items, item)
    present = (column < len(items)) & (items[np.minimum(column, len(items) - 1)] == item)
    marks = np.zeros((count, len(items)), bool)
    marks[place[present], column[present]] = True
    return marks


def draw_columns(known: Tensor, count: int, generator: np.random.Generator) -> Tensor:
    """For each query `count` random columns that are no known positive: int64 (B, count).

    The columns of a batch are random items of training pairs, so a draw from them is one.
    """
    weights = (~known).float()
    weights[weights.sum(dim=1) == 0] = 1.0  # a batch of one query's positives has no negatives
    source = torch.Generator().manual_seed(int(generator.integers(2**63)))
    return torch.multinomial(weights, count, replacement=True, generator=source)
