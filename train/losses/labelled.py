"""Binary cross-entropy of pairs that the data label."""

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from twinspire.protos.errors import DataError
from twinspire.train.config.losses import Bce
from twinspire.train.data.batches import Batch
from twinspire.train.data.training_data import Pairs, TrainingData
from twinspire.train.losses.objective import OBJECTIVES, Candidates, Objective, columns_of

Rows = npt.NDArray[np.int64]


def labelled_bce(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of labelled pairs.

    Args:
        logits: of any shape, usually (B,).
        labels: of the same shape; above 0 is positive.

    Returns:
        The shape of the logits.
    """
    return F.softplus(torch.where(labels > 0, -logits, logits))


@OBJECTIVES.register(Bce)
class BceObjective(Objective[Bce]):
    """`labelled_bce` over the pairs of the data.

    Raises:
        DataError: the data have no negative pairs.
    """

    def __init__(self, config: Bce, data: TrainingData) -> None:
        super().__init__(config, data)
        if self.pairs.label is None:
            raise DataError('loss.kind = "bce", but every training pair is positive: there are no negatives')

    def _select_pairs(self, pairs: Pairs) -> Pairs:
        return pairs

    def candidates(self, batch: Batch, hard: Rows | None, generator: np.random.Generator) -> Candidates:
        """The items of the batch."""
        own = self.pairs.item[batch.pairs]
        items = np.unique(own)
        return Candidates(items, columns_of(items, own), None)

    def pair_losses(self, scores: Tensor, batch: Batch, candidates: Candidates) -> Tensor:
        """(P,) from scores (P, N)."""
        assert self.pairs.label is not None
        logits = scores.gather(1, candidates.positive[:, None])[:, 0]
        labels = torch.from_numpy(self.pairs.label[batch.pairs]).to(logits.device)
        return labelled_bce(logits, labels)
