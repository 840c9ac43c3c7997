"""Encoders of item ids and of histories: rows of the item embeddings -> (B, H).

The input of a history encoder is either rows (B, L), newest last and 0 in front, as in the exported graph, or
`Windows`, which several training records of one user share. Both give the same vectors. For rows the encoder
computes the last position; for windows it computes all positions at once, which is far less work when every
position is a training record.

Attention may read ages: the time from an event to a moment, in seconds. A position of a history is asked at a
moment: the last one at the time of the query, each other one when the next event came. An age is counted from
a position's moment back to an event, and its logarithm is cut into buckets. TiSASRec (Li et al. 2020) has
embeddings of the time between two events of a history instead; here the moment of the query counts, which a
service knows as well as the events. Where the moment or the time of the event is not known, the age is not,
and has a row of its own in the tables of buckets.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twinspire.protos.features import FIRST_KNOWN
from twinspire.protos.inputs.events import UNKNOWN_TIME
from twinspire.train.models.encoders import touched
from twinspire.train.models.placement import WITHOUT_SOLVERS

FUSED = ("cuda", "mps")  # devices where one kernel draws, drops and scales in dropout
SHORTEST = 60  # seconds; ages below it share a bucket
BUCKETS = 32
UNKNOWN_AGE = BUCKETS  # row of the tables, after those of the buckets
AGE_ROWS = BUCKETS + 1
# In units of half of SHORTEST, so that the logarithm is 1 at SHORTEST. Half a second keeps whole seconds away
# from the borders between buckets, where rounding would differ between runtimes.
_UNIT, _ROUNDING = SHORTEST / 2, 0.5
# Of IEEE 754 in double precision.
_EXPONENT_BIT, _EXPONENT_BIAS = 52, 1023
_LOG_2 = torch.tensor(math.log(2), dtype=torch.float64)  # numbers are exported in single precision


@dataclass(frozen=True)
class Windows:
    """The histories of B records as positions in W windows.

    Args:
        rows: int64 (W, C), newest last, 0 in front. A window that begins with the user's first item has at
            least one 0 before it: that position is the empty history.
        places: int64 (B,), index into the flattened W x C positions: the newest item of each record's
            history.
    """

    rows: Tensor
    places: Tensor

    def pick(self, encoded: Tensor) -> Tensor:
        """The vector of each record: (W, C, H) -> (B, H)."""
        return encoded.flatten(0, 1)[self.places]


History = Tensor | Windows


def item_table(known: int, width: int, scale: float) -> nn.Parameter:
    """(FIRST_KNOWN + known, width): random item embeddings; row 0 is padding, row 1 an unknown item."""
    return nn.Parameter(torch.randn(FIRST_KNOWN + known, width).mul_(scale))


class IdEncoder(nn.Module):
    """The embedding of an item's id.

    Args:
        table: (V, H); may be shared.
    """

    def __init__(self, table: nn.Parameter) -> None:
        super().__init__()
        self.table = table

    def forward(self, rows: Tensor) -> Tensor:
        """int64 (B, 1) -> (B, H)."""
        table, rows = touched(self.table, rows[:, 0])
        return F.embedding(rows, table)


class PoolingEncoder(nn.Module):
    """The weighted sum or mean of the embeddings of a history's items.

    The weight of an item followed by n newer ones is exp(age_n), where age_n is learned.

    Args:
        table: (V, H); row 0 does not count.
        positions: number of positions of the longest history or window.
        mean: divide by the sum of the weights; an empty history stays zero.
        scale: start value of the newest item's weight.
        decay: at the start, age_n falls by this with each n.
    """

    def __init__(
        self, table: nn.Parameter, positions: int, mean: bool, scale: float = 1.0, decay: float = 0.0
    ) -> None:
        super().__init__()
        self.table = table
        self.mean = mean
        newer = torch.arange(positions - 1, -1, -1.0)  # number of newer items; the newest item is the last
        self.age = nn.Parameter(math.log(scale) - decay * newer)

    def forward(self, history: History) -> Tensor:
        """Rows (B, L) or windows of B records -> (B, H)."""
        if isinstance(history, Windows):
            place = torch.arange(history.rows.shape[1], device=self.age.device)
            age = (place[:, None] - place).clamp(min=0)
            weights = self.age.flip(0)[age].exp().tril()  # (C, C), 0 for later positions
            return history.pick(self._pool(history.rows, weights))
        weights = self.age[-history.shape[1] :].exp()[None]  # (1, L)
        return self._pool(history, weights).squeeze(1)

    def _pool(self, rows: Tensor, weights: Tensor) -> Tensor:
        """Rows (B, L), weights (Q, L) for each of Q positions -> (B, Q, H)."""
        present = (rows != 0).float()  # (B, L)
        weighted = weights * present[:, None]  # (B, Q, L)
        table, rows = touched(self.table, rows)
        total = weighted @ F.embedding(rows, table)
        if not self.mean:
            return total
        return total / weighted.sum(dim=-1, keepdim=True).clamp(min=1e-6)


class TransformerBlock(nn.Module):
    """Causal self-attention and feed-forward layers, both pre-norm and residual.

    Instead of position embeddings there is a bias for each head and distance (Raffel et al. 2020, section
    2.1), so the result does not depend on where in the window a history begins. With `ages` there is one for
    each head and age, too.
    """

    def __init__(self, width: int, heads: int, dropout: float, positions: int, ages: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.dropout = dropout
        self.attention_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)
        self.distance = nn.Parameter(torch.zeros(positions, heads))
        self.ages = nn.Parameter(torch.zeros(AGE_ROWS, heads)) if ages else None
        self.forward_norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, 4 * width)
        self.outer = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, masked: Tensor, places: Tensor, queries: Tensor) -> Tensor:
        """One layer.

        Args:
            x: (B, L, H), all positions.
            masked: bool (B, 1, Q, L), the positions that each query position must not attend to.
            places: int64 (Q, L), number of positions from each position to each query position; if the layer
                has biases for ages, (B, Q, L), that number times `AGE_ROWS`, plus the row of the age.
            queries: (B, Q, H), the positions to compute: all of x, or the last one.

        Returns:
            (B, Q, H)
        """
        biases: Tensor = self.distance
        if self.ages is not None:  # one look-up for the sum of both takes half the time of two
            biases = (self.distance[:, None] + self.ages).flatten(0, 1)
        bias = _head_biases(biases, places)
        query = self._split(self.query(self.attention_norm(queries)) * self.scale, self.heads)
        both = self._split(self.key_value(self.attention_norm(x)), 2 * self.heads)
        keys, values = both.chunk(2, dim=1)
        attended = self._attend(query, keys, values, bias, masked)
        joined = attended.transpose(1, 2).flatten(2)  # (B, Q, H)
        attended_to = queries + dropout(self.output(joined), self.dropout, self.training)
        inner = dropout(F.gelu(self.inner(self.forward_norm(attended_to))), self.dropout, self.training)
        return attended_to + dropout(self.outer(inner), self.dropout, self.training)

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor, masked: Tensor) -> Tensor:
        """(B, heads, Q, H / heads), by the formula that is fastest on a GPU, on a CPU, or as a graph."""
        if self.training and query.device.type in FUSED:
            bias = bias.masked_fill(masked, float("-inf"))
            return F.scaled_dot_product_attention(query, keys, values, bias, self.dropout, scale=1.0)
        if self.training:  # as a constant that is added, the mask takes no time in the backward pass
            mask = torch.zeros_like(masked, dtype=bias.dtype).masked_fill_(masked, float("-inf"))
            weights = (query @ keys.transpose(2, 3)).add_(bias).add_(mask).softmax(dim=-1)
            return dropout(weights, self.dropout, True) @ values
        bias = bias.masked_fill(masked, float("-inf"))
        return (query @ keys.transpose(2, 3) + bias).softmax(dim=-1) @ values

    @staticmethod
    def _split(x: Tensor, parts: int) -> Tensor:
        """(B, L, parts * D) -> (B, parts, L, D)."""
        batch, length, width = x.shape
        return x.view(batch, length, parts, width // parts).transpose(1, 2)


def _head_biases(table: Tensor, rows: Tensor) -> Tensor:
    """The biases of each head: (R, heads) and rows (..., Q, L) -> (..., heads, Q, L)."""
    if torch.compiler.is_exporting() or rows.device.type != "cpu":
        return F.embedding(rows, table).movedim(-1, -3)
    # On a CPU the gradient of `embedding` takes many times as long for rows of a few numbers.
    flat = rows.flatten()
    return torch.stack([head.gather(0, flat).view_as(rows) for head in table.T.contiguous()], dim=-3)


class AttentionEncoder(nn.Module):
    """Causal self-attention over a history (SASRec, Kang and McAuley 2018, section III).

    Unlike the paper it has biases by distance instead of learned positions, and pre-norm blocks. Row 0 of the
    table is a learned embedding of the empty history; no other position attends to it.

    Args:
        table: (V, H), shared with the item tower.
        heads: attention heads; must divide H.
        dropout: inside the blocks.
        input_dropout: on the embedded items.
        positions: number of positions of the longest history or window.
        beside: names of the inputs with the times of the events and of the query, if the encoder reads them:
            the blocks have biases by age, and to an embedded item the vector of the time from its event to
            the moment of its position is added.
        age_dropout: share of the windows or rows of a training step whose ages are not known, so that the
            encoder learns to do without them, too, as for a client that sends no times.
    """

    def __init__(
        self,
        table: nn.Parameter,
        layers: int,
        heads: int,
        dropout: float,
        input_dropout: float,
        positions: int,
        beside: tuple[str, ...] = (),
        age_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.table = table
        width = table.shape[1]
        self.input_dropout = input_dropout
        self.beside = beside
        self.age_dropout = age_dropout
        self.blocks = nn.ModuleList(
            TransformerBlock(width, heads, dropout, positions, bool(beside)) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.ages = nn.Parameter(torch.zeros(AGE_ROWS, width)) if beside else None

    def forward(self, history: History, times: Tensor | None = None, asked: Tensor | None = None) -> Tensor:
        """Rows (B, L) or windows of B records -> (B, H).

        Args:
            times: int64, seconds since 1970 of the events, of the shape of the rows; `UNKNOWN_TIME` where not
                known. None if the encoder does not read them.
            asked: int64 (B, 1), when each query is asked, likewise.
        """
        if isinstance(history, Windows):
            dated = None
            if times is not None and asked is not None:
                dated = times, moments_in_windows(history.places, times, asked)
            return history.pick(self.norm(self._encode(history.rows, history.rows.shape[1], dated)))
        dated = None if times is None or asked is None else (times, moments_of(times, asked))
        last: Tensor = self.norm(self._encode(history, 1, dated)[:, 0])
        return last

    @torch.no_grad()
    def extend_ages(self) -> None:
        """Give ages above the highest one in training the row of that one, in each table.

        A row is zero before training, and stays so if training has no event of its age. Such rows below the
        highest age are left as they are.
        """
        for module in (self, *self.blocks):
            table = module.ages
            if isinstance(table, nn.Parameter):
                seen = table[:UNKNOWN_AGE].any(dim=1).nonzero()
                if len(seen):
                    highest = int(seen.max())
                    table[highest:UNKNOWN_AGE] = table[highest].clone()

    def _encode(self, rows: Tensor, count: int, dated: tuple[Tensor, Tensor] | None) -> Tensor:
        """(B, count, H): the last `count` positions after all blocks.

        Args:
            rows: int64 (B, L).
            dated: times of the events and moments of the positions, int64 (B, L) each, if the encoder reads
                them.
        """
        place = torch.arange(rows.shape[1], device=rows.device)
        offset = place[:, None] - place  # (L, L), above 0 for earlier positions
        # A position attends to itself even where it is padding, else the softmax has no term.
        masked = (offset < 0) | (rows == 0)[:, None, None] & (offset > 0)
        places = offset.clamp(min=0)
        is_item = (rows != 0)[..., None]
        table, rows = touched(self.table, rows)
        x = F.embedding(rows, table)
        assert self.ages is None or dated is not None, "an encoder that reads ages needs times"
        if dated is not None and self.ages is not None:
            times, moments = self._drop(*dated)
            x = torch.where(is_item, x + F.embedding(age_rows(moments, times), self.ages), x)
            asking = moments if len(self.blocks) > 1 else moments[:, -count:]
            ages = age_rows(asking[:, :, None], times[:, None])
            places = places[-asking.shape[1] :] * AGE_ROWS + ages  # (B, Q, L)
        x = dropout(x, self.input_dropout, self.training)
        for block in self.blocks[:-1]:
            x = block(x, masked, places, x)
        last: Tensor = self.blocks[-1](x, masked[:, :, -count:], places[..., -count:, :], x[:, -count:])
        return last

    def _drop(self, times: Tensor, moments: Tensor) -> tuple[Tensor, Tensor]:
        """Times and moments, in training not known in some of the windows."""
        if not self.training or not self.age_dropout:
            return times, moments
        dropped = torch.rand(len(times), 1, device=times.device) < self.age_dropout
        return times.masked_fill(dropped, UNKNOWN_TIME), moments.masked_fill(dropped, UNKNOWN_TIME)


class HistoryDropout(nn.Module):
    """Drops random items of each history in training, as in a denoising autoencoder.

    Liang et al. 2018, section 2.1, drop half of the history. A dropped item becomes padding; the other items
    keep their positions.

    Args:
        max_share: the share of items dropped from a history is drawn uniformly from 0 to this.
    """

    def __init__(self, max_share: float) -> None:
        super().__init__()
        self.max_share = max_share

    def forward(self, history: History) -> History:
        """Rows (B, L) or windows -> the same, with 0 in place of dropped rows."""
        if not self.training or not self.max_share:
            return history
        if isinstance(history, Windows):
            return Windows(self._drop(history.rows), history.places)
        return self._drop(history)

    def _drop(self, rows: Tensor) -> Tensor:
        share = self.max_share * torch.rand(len(rows), 1, device=rows.device)
        return rows.masked_fill(torch.rand(rows.shape, device=rows.device) < share, 0)


def dropout(x: Tensor, share: float, training: bool) -> Tensor:
    """Set a random share of the elements to 0, and scale the others (Srivastava et al. 2014, section 10).

    As `torch.nn.functional.dropout`, with other random numbers. That function draws a Bernoulli number for
    each element, which takes three times as long on a CPU as the uniform numbers that are drawn here.

    Args:
        x: of any shape.
        share: 0 to below 1.
        training: without it, and with a share of 0, the result is `x` itself.
    """
    if not training or not share:
        return x
    if x.device.type in FUSED:
        return F.dropout(x, share)
    return x * torch.rand_like(x).ge_(share).mul_(1 / (1 - share))


def age_rows(moments: Tensor, times: Tensor) -> Tensor:
    """int64 (...): the row of each age in the tables, `UNKNOWN_AGE` where it is not known.

    The bucket of s seconds is 0 below `SHORTEST`, also where the event is after the moment, else
    1 + floor(log2(s / SHORTEST)). From 2^31 SHORTEST on, 4,083 years, an age counts as not known.

    Args:
        moments: int64, seconds since 1970, `UNKNOWN_TIME` where not known; of a shape that is broadcast with
            that of times.
        times: int64, likewise.
    """
    exact = torch.float32 if times.device.type in WITHOUT_SOLVERS else torch.float64
    later = (moments.to(exact) + _ROUNDING) / _UNIT
    earlier = torch.where(times < UNKNOWN_TIME, times, -UNKNOWN_TIME).to(exact) / _UNIT
    units = (later - earlier).clamp(min=1)
    if exact == torch.float32 or torch.compiler.is_exporting():
        return (torch.log(units) / _LOG_2.to(exact)).clamp(max=UNKNOWN_AGE).long()
    # The exponent of a number in double precision, which is the same and takes a third of the time.
    exponent = units.view(torch.int64).bitwise_right_shift_(_EXPONENT_BIT).sub_(_EXPONENT_BIAS)
    return exponent.clamp_(max=UNKNOWN_AGE)


def moments_of(times: Tensor, asked: Tensor) -> Tensor:
    """int64 (B, L): the moment of each position of histories, from the times of their events.

    Args:
        times: int64 (B, L), of the events.
        asked: int64 (B, 1), of the queries: the moments of the last positions.
    """
    return torch.cat([times[:, 1:], asked], dim=1)


def moments_in_windows(places: Tensor, times: Tensor, asked: Tensor) -> Tensor:
    """int64 (W, C): the moment of each position of windows that records share.

    Records whose histories end at the same event, and that differ in time, share the earliest moment.

    Args:
        places: int64 (B,), of the records, as of `Windows`.
        times: int64 (W, C), of the events.
        asked: int64 (B, 1), of the records.
    """
    following = moments_of(times, times[:, -1:]).flatten()
    own = torch.full_like(following, UNKNOWN_TIME).scatter_reduce(0, places, asked[:, 0], "amin")
    is_place = torch.zeros_like(following, dtype=torch.bool).index_fill(0, places, True)
    return torch.where(is_place, own, following).view_as(times)
