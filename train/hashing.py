"""Word hashing as tensor operations: code points in, rows of a hashed table out.

Huang et al. 2013, section 3.2: a word is marked with `#` at both ends and broken into letter n-grams,
and a text is the bag of them. Here a text also holds its whole words, and n-grams and words share one
table by hashing. The operations are the same in training, in the exported graph and in the service, so
there is no vocabulary and no tokenizer to keep in step.

What is no letter, mark or number in Unicode separates words. Separators and padding are the same symbol,
0, which is `#`: a text is its words with zeros between them, however it is padded. Masks are products
with 0 and 1, because every operation is a node of the exported graph, and a small graph is a fast one.
"""

import functools
import unicodedata
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAST_LETTER = 0x323AF  # of CJK extension H; the few letters beyond it separate words
LONGEST_WORD = 23  # letters; of a longer one, what is hashed begins at the start of the text
_WORD_MODULUS = 2**31 - 1  # prime


class WordHashing(nn.Module):
    """Hash the n-grams and words of a text into `1 .. buckets - 1`; 0 is "nothing here".

    An n-gram's hash is linear in its symbols with random multipliers, modulo a prime: a universal family
    (Carter and Wegman 1979, proposition 7), so two n-grams collide with probability 1 / buckets. A word's
    hash is the sum of the hashes of its trigrams, which tell words apart (Huang et al. 2013, table 1: 22
    collisions in 500,000 words), modulo another prime first.

    Args:
        orders: lengths of the character n-grams, at least 1.
        words: hash whole words too.
        buckets: rows of the table, row 0 included.
    """

    symbols: Tensor

    def __init__(self, orders: Sequence[int], words: bool, buckets: int) -> None:
        super().__init__()
        self.orders = tuple(sorted(set(orders)))
        self.words = words
        self.modulus = _largest_prime(buckets)
        generator = torch.Generator().manual_seed(2013)
        highest = max((3, *self.orders))
        self.multipliers: dict[int, list[int]] = {
            order: torch.randint(1, 2**31, (order,), generator=generator).tolist()
            for order in range(1, highest + 1)
        }
        self._tail = max((2, *self.orders))
        self.register_buffer("symbols", letters(), persistent=False)

    def forward(self, code_points: Tensor) -> Tensor:
        """Rows of the hashed table.

        Args:
            code_points: integers (B, L), 0 is padding.

        Returns:
            int64 (B, F), unordered; F = (L + 1) x (number of orders, and one more for words).
        """
        marked = F.pad(code_points, (1, self._tail))  # # at both ends
        known = marked.clamp(max=LAST_LETTER + 1)
        symbols = look_up(self.symbols, known)  # (B, 1 + L + tail)
        hashes = [self._ngrams(symbols, order) for order in self.orders]
        if self.words:
            hashes.append(self._words(symbols))
        return torch.cat(hashes, dim=1) % self.modulus

    def _window(self, symbols: Tensor, n: int) -> Tensor:
        """(B, L + 1): the n-th symbol after each place. Counted from the end, it exports as a constant."""
        return symbols[:, n : n - self._tail] if n < self._tail else symbols[:, n:]

    def _ngrams(self, symbols: Tensor, order: int) -> Tensor:
        """(B, L + 1): the hash of the n-gram that begins at each place, 0 where there is none.

        An n-gram may begin or end with a separator, but holds none inside.
        """
        parts = [self._window(symbols, n) for n in range(order)]
        multipliers = self.multipliers[order]
        total = parts[0] * multipliers[0]
        for part, multiplier in zip(parts[1:], multipliers[1:], strict=True):
            total = total + part * multiplier
        for inside in parts[1:-1]:
            total = total * inside.clamp(max=1)
        return total

    def _words(self, symbols: Tensor) -> Tensor:
        """(B, L + 1): the hash of a word one place before its last letter, 0 elsewhere."""
        letter = self._window(symbols, 1).clamp(max=1)
        follows = self._window(symbols, 2).clamp(max=1)
        so_far = torch.cumsum(self._ngrams(symbols, 3) % _WORD_MODULUS, dim=1)
        before = latest(so_far * (1 - letter), LONGEST_WORD + 1)  # at the word's beginning
        return (so_far - before) * (1 - follows)


def look_up(table: Tensor, index: Tensor) -> Tensor:
    """`table[index]` of a table with one dimension, in the form that exports to a Gather."""
    found: Tensor = F.embedding(index, table[:, None]).squeeze(-1)
    return found


def latest(rising: Tensor, reach: int) -> Tensor:
    """The largest value at or before each place, at most `reach - 1` places back, or 0.

    A running maximum by pooling, because ONNX has no cumulative maximum.

    Args:
        rising: integers (B, L) at least 0 and below 2^53, where doubles are exact.

    Returns:
        int64 (B, L)
    """
    padded = F.pad(rising.double()[:, None, None], (reach - 1, 0))
    return F.max_pool2d(padded, (1, reach), stride=1).squeeze((1, 2)).long()


@functools.cache
def letters() -> Tensor:
    """int64 (LAST_LETTER + 2,): the code point itself where it is a letter, mark or number, else 0."""
    table = torch.zeros(LAST_LETTER + 2, dtype=torch.int64)
    for point in range(LAST_LETTER + 1):
        if unicodedata.category(chr(point))[0] in "LMN":
            table[point] = point
    return table


def _largest_prime(limit: int) -> int:
    candidate = limit
    while any(candidate % divisor == 0 for divisor in range(2, int(candidate**0.5) + 1)):
        candidate -= 1
    return candidate
