"""Word hashing as tensor operations: code points in, rows of a hashed table out.

Huang et al. 2013, section 3.2: a word is marked with `#` at both ends and broken into letter n-grams,
and a text is the bag of them. Here a text also holds its whole words, and n-grams and words share one
table by hashing. The operations are the same in training, in the exported graph and in the service, so
there is no vocabulary and no tokenizer to keep in step.

What is no letter, mark or number in Unicode separates words. Separators and padding are the same symbol,
0, which is `#`: a text is its words with zeros between them, however it is padded.
"""

import sys
import unicodedata
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAST_LETTER = 0x323AF  # of CJK extension H; the few letters beyond it separate words
LONGEST_WORD = 63  # letters; a longer word has n-grams, but no feature of its own
_MULTIPLIER_BITS = 31


class WordHashing(nn.Module):
    """Hash the n-grams and words of a text into `1 .. buckets - 1`; 0 is "nothing here".

    Hashes are linear in the symbols with random multipliers, reduced modulo a prime: a universal family
    (Carter and Wegman 1979, proposition 7), so two features collide with probability 1 / buckets.

    Args:
        orders: lengths of the character n-grams, at least 1; empty for none.
        words: hash whole words too.
        buckets: rows of the table, row 0 included.
    """

    symbols: Tensor
    multipliers: Tensor
    word_multipliers: Tensor

    def __init__(self, orders: Sequence[int], words: bool, buckets: int) -> None:
        super().__init__()
        self.orders = tuple(sorted(set(orders)))
        self.words = words
        self.modulus = _largest_prime(buckets - 1)
        generator = torch.Generator().manual_seed(20130)
        longest = max(self.orders, default=1)
        self.register_buffer("symbols", letters(), persistent=False)
        self.register_buffer("multipliers", _random(longest, generator), persistent=False)
        self.register_buffer("word_multipliers", _random(LONGEST_WORD + 1, generator), persistent=False)
        self.offsets = _random(longest + 1, generator).tolist()

    def forward(self, code_points: Tensor) -> Tensor:
        """Rows of the hashed table.

        Args:
            code_points: integers (B, L), 0 is padding.

        Returns:
            int64 (B, F), F = (L + 1) x (number of orders) + (L + 2 if words are hashed), unordered.
        """
        known = code_points.clamp(max=LAST_LETTER + 1)
        symbols = self.symbols[known]  # (B, L)
        longest = max(self.orders, default=1)
        marked = F.pad(symbols, (1, max(longest, 1)))  # (B, L + 1 + longest): # at both ends
        rows = self._ngrams(marked, code_points.shape[1] + 1)
        if self.words:
            rows.append(self._words(F.pad(symbols, (1, 1))))
        return torch.cat(rows, dim=1)

    def _ngrams(self, marked: Tensor, windows: int) -> list[Tensor]:
        """One (B, windows) of rows for each order; orders share their partial sums."""
        rows = []
        total = torch.zeros_like(marked[:, :windows])
        inside = None  # no separator between the first and the last symbol
        for n in range(1, max(self.orders, default=0) + 1):
            symbol = marked[:, n - 1 : n - 1 + windows]
            if n > 2:
                before = marked[:, n - 2 : n - 2 + windows] != 0
                inside = before if inside is None else inside & before
            total = total + symbol * self.multipliers[n - 1]
            if n in self.orders:
                valid = total != 0 if inside is None else inside
                rows.append(self._row(total, n, valid))
        return rows

    def _words(self, marked: Tensor) -> Tensor:
        """(B, L + 2): the row of a word at its last letter, 0 elsewhere."""
        letter = marked != 0
        place = torch.arange(1, marked.shape[1] + 1, device=marked.device)
        boundary = (place * ~letter).float()  # exact up to 2^24
        reach = F.pad(boundary, (LONGEST_WORD, 0)).unsqueeze(1)
        last = F.max_pool1d(reach, LONGEST_WORD + 1, stride=1).squeeze(1).long()
        start = last.clamp(min=1)  # 1-based place of the boundary before this letter
        within = (place - start).clamp(max=LONGEST_WORD)
        sums = torch.cumsum(marked * self.word_multipliers[within], dim=1)
        word = sums - sums.gather(1, start - 1)
        ends = letter & (F.pad(marked[:, 1:], (0, 1)) == 0) & (last != 0)
        return self._row(word, 0, ends)

    def _row(self, total: Tensor, order: int, valid: Tensor) -> Tensor:
        return ((total + self.offsets[order]) % self.modulus + 1) * valid


def letters() -> Tensor:
    """int64 (LAST_LETTER + 2,): the code point itself where it is a letter, mark or number, else 0."""
    table = torch.zeros(LAST_LETTER + 2, dtype=torch.int64)
    for point in range(min(LAST_LETTER, sys.maxunicode) + 1):
        if unicodedata.category(chr(point))[0] in "LMN":
            table[point] = point
    return table


def _random(count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(1, 2**_MULTIPLIER_BITS, (count,), generator=generator)


def _largest_prime(limit: int) -> int:
    candidate = limit
    while any(candidate % divisor == 0 for divisor in range(2, int(candidate**0.5) + 1)):
        candidate -= 1
    return candidate
