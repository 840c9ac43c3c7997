"""Encoders of ids and histories: rows of the known items in, (B, H) out.

A history reaches its encoder either as rows (B, L), newest last and 0 in front, which is what is exported
and served, or as `Windows` that many records of one user share. Both give the same: the first reads off
the last place, the second computes all places of a window at once, which is far less work when every
place is a record to learn from.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protos.features import FIRST_KNOWN, UNKNOWN
from train.hashing import look_up


@dataclass(frozen=True)
class Windows:
    """The histories of B records as places in W runs of items.

    Args:
        rows: int64 (W, C), newest last, 0 in front; at least one 0 before a run that begins with the
            user's first item, because that place is the empty history.
        places: int64 (B,), into the W x C places: the newest item of each record's history.
    """

    rows: Tensor
    places: Tensor

    def pick(self, encoded: Tensor) -> Tensor:
        """(W, C, H) -> (B, H)."""
        return encoded.flatten(0, 1)[self.places]


History = Tensor | Windows


def item_table(known: int, width: int, scale: float) -> nn.Parameter:
    """(FIRST_KNOWN + known, width): a random row for each item; row 0 is the empty history, 1 unknown."""
    return nn.Parameter(torch.randn(FIRST_KNOWN + known, width) * scale)


class Ids(nn.Module):
    """The row of an item's id in a table that may be shared.

    Args:
        table: (V, H).
    """

    def __init__(self, table: nn.Parameter) -> None:
        super().__init__()
        self.table = table

    def forward(self, rows: Tensor) -> Tensor:
        """int64 (B, 1) -> (B, H)."""
        return F.embedding(rows[:, 0], self.table)


class Pooled(nn.Module):
    """The sum of the rows of a history's items, each weighted by how long ago it was, or their mean.

    The weight of the item that is `n` items old is exp(age_n), learned.

    Args:
        table: (V, H); row 0 does not count.
        reach: places of the longest history or window.
        mean: divide by the sum of the weights; an empty history stays zero.
        scale: the weight of the newest item at the start.
        decay: age_n falls by this with each n at the start.
    """

    def __init__(
        self, table: nn.Parameter, reach: int, mean: bool, scale: float = 1.0, decay: float = 0.0
    ) -> None:
        super().__init__()
        self.table = table
        self.mean = mean
        old = torch.arange(reach - 1, -1, -1.0)  # the newest is the last
        self.age = nn.Parameter(math.log(scale) - decay * old)

    def forward(self, history: History) -> Tensor:
        """Rows (B, L) or windows of B records -> (B, H)."""
        if isinstance(history, Windows):
            return history.pick(self._weigh(history.rows, self._by_place(history.rows.shape[1])))
        weights = self.age[-history.shape[1] :].exp()[None]  # (1, L)
        return self._weigh(history, weights).squeeze(1)

    def _weigh(self, rows: Tensor, weights: Tensor) -> Tensor:
        """Rows (B, L), weights (Q, L) of each place that asks -> (B, Q, H)."""
        present = (rows != 0).float()  # (B, L)
        weighted = weights * present[:, None]  # (B, Q, L)
        total = weighted @ F.embedding(rows, self.table)
        if not self.mean:
            return total
        return total / weighted.sum(dim=-1, keepdim=True).clamp(min=1e-6)

    def _by_place(self, width: int) -> Tensor:
        """(C, C): what each place gives to the places at and before it."""
        place = torch.arange(width)
        age = (place[:, None] - place).clamp(min=0)
        return self.age.flip(0)[age].exp().tril()


class Block(nn.Module):
    """Causal self-attention and a feed-forward part, each behind a layer norm and with a residual.

    A bias for each head and distance stands in for positions (Raffel et al. 2020, section 2.1), so that a
    history means the same wherever it begins.
    """

    def __init__(self, width: int, heads: int, dropout: float, reach: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.dropout = dropout
        self.attention_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)
        self.distance = nn.Parameter(torch.zeros(reach, heads))
        self.forward_norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, 4 * width)
        self.outer = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, hidden: Tensor, distance: Tensor, asking: Tensor) -> Tensor:
        """One layer.

        Args:
            x: (B, L, H), all places.
            hidden: bool (B, 1, Q, L), what each asking place may not look at.
            distance: int64 (Q, L), how far back each place lies from each asking one.
            asking: (B, Q, H), the places that are computed: all of x, or the last alone.

        Returns:
            (B, Q, H)
        """
        bias = F.embedding(distance, self.distance).permute(2, 0, 1)  # (heads, Q, L)
        query = self._split(self.query(self.attention_norm(asking)) * self.scale, self.heads)
        both = self._split(self.key_value(self.attention_norm(x)), 2 * self.heads)
        keys, values = both.chunk(2, dim=1)
        attended = self._attend(query, keys, values, bias.masked_fill(hidden, float("-inf")))
        joined = attended.transpose(1, 2).flatten(2)  # (B, Q, H)
        asking = asking + F.dropout(self.output(joined), self.dropout, self.training)
        inner = F.dropout(F.gelu(self.inner(self.forward_norm(asking))), self.dropout, self.training)
        return asking + F.dropout(self.outer(inner), self.dropout, self.training)

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """(B, heads, Q, H / heads): one call is faster to learn with, the plain formula to export."""
        if self.training:
            return F.scaled_dot_product_attention(query, keys, values, bias, self.dropout, scale=1.0)
        return (query @ keys.transpose(2, 3) + bias).softmax(dim=-1) @ values

    @staticmethod
    def _split(x: Tensor, parts: int) -> Tensor:
        """(B, L, parts * D) -> (B, parts, L, D)."""
        batch, length, width = x.shape
        return x.view(batch, length, parts, width // parts).transpose(1, 2)


class Attention(nn.Module):
    """Causal self-attention over a history (SASRec, Kang and McAuley 2018, section III).

    Differs from the paper in biases by distance instead of learned positions, and in pre-norm blocks. Row
    0 of the table is a learned start: it is what an empty history is, and no other place looks at it.

    Args:
        table: (V, H), shared with the item tower.
        layers: number of blocks.
        heads: attention heads; they divide H.
        dropout: inside the blocks.
        input_dropout: of the embedded items.
        reach: places of the longest history or window.
    """

    def __init__(
        self, table: nn.Parameter, layers: int, heads: int, dropout: float, input_dropout: float, reach: int
    ) -> None:
        super().__init__()
        self.table = table
        width = table.shape[1]
        self.input_dropout = input_dropout
        self.blocks = nn.ModuleList(Block(width, heads, dropout, reach) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, history: History) -> Tensor:
        """Rows (B, L) or windows of B records -> (B, H)."""
        if isinstance(history, Windows):
            return history.pick(self.norm(self._through(history.rows, history.rows.shape[1])))
        last: Tensor = self.norm(self._through(history, 1)[:, 0])
        return last

    def _through(self, rows: Tensor, asking: int) -> Tensor:
        """(B, asking, H): the last places after all blocks; earlier places feed the last block only."""
        place = torch.arange(rows.shape[1])
        behind = place[:, None] - place  # (L, L)
        hidden = (behind < 0) | (rows == 0)[:, None, None] & (behind > 0)  # a place always sees itself
        distance = behind.clamp(min=0)
        x = F.dropout(F.embedding(rows, self.table), self.input_dropout, self.training)
        for block in self.blocks[:-1]:
            x = block(x, hidden, distance, x)
        last: Tensor = self.blocks[-1](x, hidden[:, :, -asking:], distance[-asking:], x[:, -asking:])
        return last


class Nothing(nn.Module):
    """Zeros, where a history says what it says through factors alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, history: History) -> Tensor:
        """Rows (B, L) or windows of B records -> (B, H)."""
        records = history.places if isinstance(history, Windows) else history[:, 0]
        return torch.zeros_like(records, dtype=torch.float32)[:, None].expand(-1, self.width)


class Thin(nn.Module):
    """Leaves items of a history out at random while training, of each history another share.

    What is left has to tell what the whole did, as in a denoising autoencoder (Liang et al. 2018, section
    2.1 drop half of the history). An item that is left out is no place to look at, but keeps its place.

    Args:
        most: the largest share that is left out; the share of a history is drawn evenly below it.
    """

    def __init__(self, most: float) -> None:
        super().__init__()
        self.most = most

    def forward(self, history: History) -> History:
        """Rows (B, L) or windows -> the same with some rows 0."""
        if not self.training or not self.most:
            return history
        if isinstance(history, Windows):
            return Windows(self._thinned(history.rows), history.places)
        return self._thinned(history)

    def _thinned(self, rows: Tensor) -> Tensor:
        share = self.most * torch.rand(len(rows), 1)
        return rows.masked_fill(torch.rand(rows.shape) < share, 0)


class Forget(nn.Module):
    """Takes some ids for unknown ones while training, so that items are placed by their content, too.

    As DropoutNet (Volkovs et al. 2017, section 3) does with the preference half of its input.

    Args:
        share: of the items, in a step; 0 leaves all ids as they are.
        known: items of the vocabulary.
    """

    MOST = 0.8  # an item has to be itself now and then
    rates: Tensor

    def __init__(self, share: float, known: int) -> None:
        super().__init__()
        self.share = share
        self.register_buffer("rates", torch.full((FIRST_KNOWN + known,), share), persistent=False)

    def weigh(self, weights: Tensor) -> None:
        """Forget items in proportion to weights (known,), the same share of all on average."""
        self.rates[FIRST_KNOWN:] = (self.share * weights / weights.mean()).clamp(max=self.MOST)

    def forward(self, rows: Tensor) -> Tensor:
        """int64 (B, 1) -> int64 (B, 1)."""
        if not self.training or not self.share:
            return rows
        return rows.masked_fill(torch.rand(rows.shape) < look_up(self.rates, rows), UNKNOWN)
