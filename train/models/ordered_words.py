"""Hashed texts as sequences of words, and the encoders that read them in order.

A word is a bag of n-grams (`WordHashing.in_order`); its vector is the sum of their embeddings. The input of
an encoder is either code points (B, L), as in the exported graph, or `WordBags`, which were hashed once
before training. Both give the same vectors. A text without words becomes the zero vector.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protos.inputs.texts import code_point_rows, folded
from train.data.ranges import concatenate_ranges, range_starts
from train.models.recurrent import Lstm
from train.models.row_gradients import touched
from train.models.text_hashing import WordHashing

_CHUNK = 1024  # texts hashed at a time
_ROW_BITS = 32  # of a key that sorts the rows of a chunk by text, word and row
_TEXT_BITS = 52


@dataclass(frozen=True)
class WordBags:
    """B hashed texts as their W words, concatenated; a row of the table occurs at most once in a word.

    Args:
        rows: int32 (T,), rows of the hashed table, never 0.
        counts: float32 (T,), occurrences of each row in its word.
        offsets: int32 (W,), index of each word's first entry in `rows`.
        lengths: int64 (B,), words of each text.
    """

    rows: Tensor
    counts: Tensor
    offsets: Tensor
    lengths: Tensor


@dataclass(frozen=True)
class OrderedTexts:
    """The words of all texts, concatenated.

    Text n has the words `starts[n]` to `starts[n + 1]`, word w the rows `begins[w]` to `begins[w + 1]`.
    """

    rows: npt.NDArray[np.int32]
    counts: npt.NDArray[np.float32]
    begins: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]

    def bags(self, index: npt.NDArray[np.int64]) -> WordBags:
        """The texts at `index`, in that order."""
        lengths = self.starts[index + 1] - self.starts[index]
        words = concatenate_ranges(self.starts[index], lengths)
        sizes = self.begins[words + 1] - self.begins[words]
        place = concatenate_ranges(self.begins[words], sizes)
        return WordBags(
            torch.from_numpy(self.rows[place]),
            torch.from_numpy(self.counts[place]),
            torch.from_numpy(range_starts(sizes).astype(np.int32)),
            torch.from_numpy(lengths),
        )


def order_texts(texts: Sequence[str], max_length: int, hashing: WordHashing) -> OrderedTexts:
    """Hash all texts word by word, in chunks of similar length."""
    normalised = folded(texts, max_length)
    order = np.argsort([*map(len, normalised)], kind="stable")
    lengths = np.zeros(len(texts), np.int64)
    found: list[tuple[npt.NDArray[Any], ...]] = []
    for at in range(0, len(order), _CHUNK):
        chunk = order[at : at + _CHUNK]
        with torch.inference_mode():
            points = torch.from_numpy(code_point_rows([normalised[n] for n in chunk]))
            rows, numbers, words = (each.numpy() for each in hashing.in_order(points))
        lengths[chunk] = words[:, 0]
        text, place = np.nonzero(rows)
        key = text << _TEXT_BITS | (numbers[text, place] - 1) << _ROW_BITS | rows[text, place]
        key, count = np.unique(key, return_counts=True)
        found.append((chunk[key >> _TEXT_BITS], key & (1 << _TEXT_BITS) - 1, count))
    text, key, count = (
        np.concatenate([each[part] for each in found]) if found else np.empty(0, np.int64)
        for part in range(3)
    )
    starts = np.concatenate([[0], np.cumsum(lengths)])
    by_text = np.argsort(text, kind="stable")
    sizes = np.bincount(starts[text] + (key >> _ROW_BITS), minlength=starts[-1])
    return OrderedTexts(
        (key[by_text] & (1 << _ROW_BITS) - 1).astype(np.int32),
        count[by_text].astype(np.float32),
        np.concatenate([[0], np.cumsum(sizes)]),
        starts,
    )


class WordEncoder(nn.Module):
    """Base of the encoders of ordered words.

    Args:
        hashing: code points -> rows of the table, with their words.
        table: (buckets, H), embeddings of n-grams. Row 0 is padding and is not used.
    """

    def __init__(self, hashing: WordHashing, table: nn.Parameter) -> None:
        super().__init__()
        self.hashing = hashing
        self.table = table

    def _of_bags(self, bags: WordBags) -> Tensor:
        """(W, H): the vectors of all words of a batch."""
        table, rows = touched(self.table, bags.rows)
        return F.embedding_bag(rows, table, bags.offsets, mode="sum", per_sample_weights=bags.counts)

    def _of_rows(self, rows: Tensor, numbers: Tensor, words: Tensor) -> Tensor:
        """(B, W, H): the vectors of the words 1 to W of each text; zero after its last.

        Args:
            rows: int32 (B, F).
            numbers: int64 (B, F), of the word of each row.
            words: int64 (W,), the numbers 1 to W.
        """
        belongs = numbers[:, None, :] == words[None, :, None]  # (B, W, F)
        return belongs.float() @ F.embedding(rows, self.table)


class ConvolutionEncoder(WordEncoder):
    """Shen et al. 2014, sections 3.3 and 3.4: tanh of a linear map of each window, then the maximum.

    A window is `window` words around a word; words beyond the ends of the text count as zero. The linear map
    of a window is the sum of maps of its words, one for each place, which are columns of the table.

    Args:
        hashing: as of the base.
        table: (buckets, window x H).
        window: words of a window, an odd number.
    """

    def __init__(self, hashing: WordHashing, table: nn.Parameter, window: int) -> None:
        super().__init__(hashing, table)
        self.window = window

    def forward(self, text: Tensor | WordBags) -> Tensor:
        """Code points (B, L) or words of B texts -> (B, H)."""
        if isinstance(text, WordBags):
            return self._pooled_bags(text)
        rows, numbers, count = self.hashing.in_order(text)
        most: Any = count.max().clamp(min=1).item()  # no int(): the exporter would take it for a constant
        torch._check(most >= 1)  # type: ignore[no-untyped-call]
        words = torch.arange(1, most + 1, device=text.device)
        hidden = torch.tanh(self._convolved(self._of_rows(rows, numbers, words)))  # (B, W, H)
        return _highest(hidden, words <= count)

    def _pooled_bags(self, bags: WordBags) -> Tensor:
        text = torch.repeat_interleave(bags.lengths)  # (W,), of each word
        ends = bags.lengths.cumsum(0)
        after = ends[text] - torch.arange(1, len(text) + 1, device=text.device)  # words after it in its text
        before = bags.lengths[text] - 1 - after
        hidden = torch.tanh(self._convolved(self._of_bags(bags), before, after))
        padded = _padded(hidden, bags.lengths)
        places = torch.arange(padded.shape[1], device=text.device)
        return _highest(padded, places < bags.lengths[:, None])

    def _convolved(self, words: Tensor, before: Tensor | None = None, after: Tensor | None = None) -> Tensor:
        """(..., W, window x H) -> (..., W, H).

        Args:
            words: of one text, or of several that `before` and `after` tell apart.
            before: int64 (W,), words of the same text before each word.
            after: those after it.
        """
        parts = words.chunk(self.window, dim=-1)
        middle = self.window // 2
        total = parts[middle]
        for step in range(1, middle + 1):
            earlier = F.pad(parts[middle - step], (0, 0, step, 0))[..., :-step, :]
            later = F.pad(parts[middle + step], (0, 0, 0, step))[..., step:, :]
            if before is not None and after is not None:
                earlier = earlier * (before >= step)[:, None]
                later = later * (after >= step)[:, None]
            total = total + earlier + later
        return total


class LstmEncoder(WordEncoder):
    """Palangi et al. 2016, section III: the state of an LSTM after the last word.

    Args:
        hashing: as of the base.
        table: (buckets, H), embeddings of n-grams.
        dimension: D, of the state.
    """

    def __init__(self, hashing: WordHashing, table: nn.Parameter, dimension: int) -> None:
        super().__init__(hashing, table)
        self.lstm = Lstm(table.shape[1], dimension)

    def forward(self, text: Tensor | WordBags) -> Tensor:
        """Code points (B, L) or words of B texts -> (B, D)."""
        if isinstance(text, WordBags):
            vectors, count = _padded(self._of_bags(text), text.lengths), text.lengths[:, None]
            words = torch.arange(1, vectors.shape[1] + 1, device=count.device)
        else:
            rows, numbers, count = self.hashing.in_order(text)
            most = text.shape[1] if self.hashing.characters else (text.shape[1] + 1) // 2
            words = torch.arange(1, most + 1, device=text.device)
            vectors = self._of_rows(rows, numbers, words)
        states = self.lstm(vectors)  # (B, W, D); packed sequences have a far slower gradient
        last = (words == count).float()  # (B, W); all zero for a text without words
        state: Tensor = (last[:, None] @ states).squeeze(1)
        return state


def _padded(words: Tensor, lengths: Tensor) -> Tensor:
    """(B, longest, H): the words (W, H) of B texts, padded behind with zeros; longest is at least 1."""
    longest = max(1, int(lengths.max())) if len(lengths) else 1
    places = (torch.arange(longest, device=words.device) < lengths[:, None]).flatten().nonzero().squeeze(1)
    padded = words.new_zeros(len(lengths) * longest, words.shape[1]).index_copy(0, places, words)
    return padded.view(len(lengths), longest, -1)


def _highest(hidden: Tensor, present: Tensor) -> Tensor:
    """(B, H): the maximum over the words that are present, bool (B, W); zero where there are none."""
    pooled = hidden.masked_fill(~present[..., None], -1.0).amax(dim=1)  # no tanh is below
    return pooled * present.any(dim=1, keepdim=True)
