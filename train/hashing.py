"""Word hashing as a convolution: code points in, rows of a hashed table out.

Huang et al. 2013, section 3.2: a word is marked with `#` at both ends and broken into letter n-grams,
and a text is the bag of them. Here a text also holds its whole words, and n-grams and words share one
table by hashing. The operations are the same in training, in the exported graph and in the service, so
there is no vocabulary and no tokenizer to keep in step.

What is no letter, mark or number in Unicode separates words. Separators and padding are the same symbol,
0, which is `#`: a text is its words with zeros between them, however it is padded.

A hash that is linear in the symbols of a window is a convolution, and so is the question whether the
window is an n-gram or a word. All n-grams and words of a text are therefore one convolution, whose output
below zero means "none": a graph of few nodes, and few nodes are what makes it fast. A letter is two random
digits, the first of them on top of a base that all letters share, and that weighs more than all digits of a
window: a sum tells by it whether a letter is missing. The numbers are integers below 2^24, which single
precision holds exactly, so every library gives the same rows.
"""

import functools
import math
import unicodedata
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCHEME = 3  # of the way from a text to its rows: towers that have learned from other rows know nothing
LAST_LETTER = 0x323AF  # of CJK extension H; the few letters beyond it separate words
LONGEST_WORD = 8  # letters; a longer one is known by its first, which are mostly its stem
_BEFORE = 1  # symbols of a window before its place
_EXACT = 2**24  # integers up to here are exact in single precision
_DIGIT = 127  # the highest of the two that tell a letter from others
_END = 8  # an end of an n-gram, which may be a separator, weighs at most an eighth of a letter's highest


class WordHashing(nn.Module):
    """Hash the n-grams and words of a text into `1 .. buckets - 1`; 0 is "nothing here".

    A hash is the sum of the window's letters, two numbers each, times random multipliers, modulo a prime
    (Carter and Wegman 1979, proposition 7).

    Args:
        orders: lengths of the character n-grams, 1 to 16.
        words: hash whole words too.
        buckets: rows of the table, row 0 included.
    """

    symbols: Tensor
    windows: Tensor
    bias: Tensor
    slots: Tensor

    def __init__(self, orders: Sequence[int], words: bool, buckets: int) -> None:
        super().__init__()
        self.orders = tuple(sorted(set(orders)))
        self.words = words
        self.modulus = _largest_prime(buckets)
        generator = torch.Generator().manual_seed(2013)
        base = 4 * _DIGIT * max(LONGEST_WORD, 2 * max(self.orders, default=0))
        kernels = [_ngram(order, base, generator) for order in self.orders]
        own = list(range(len(kernels)))  # the slot of each kernel
        if words:
            # A word stands at the separator before it, where no n-gram stands that has a letter there.
            free = [slot for slot, order in enumerate(self.orders) if order != 2]
            own += [free[0] if free else len(kernels)] * LONGEST_WORD
            kernels += [_word(length, base, generator) for length in range(1, LONGEST_WORD + 1)]
        width = max(weights.shape[1] for weights, _ in kernels)
        windows = torch.stack([F.pad(weights, (0, width - weights.shape[1])) for weights, _ in kernels])
        self.register_buffer("symbols", symbols(base), persistent=False)
        self.register_buffer("windows", windows, persistent=False)  # (kernels, 2, width)
        self.register_buffer("bias", torch.tensor([bias for _, bias in kernels]), persistent=False)
        slots = F.one_hot(torch.tensor(own)).T.float()[:, :, None]
        self.register_buffer("slots", slots, persistent=False)  # (slots, kernels, 1)
        self._after = width - _BEFORE - 1

    def forward(self, code_points: Tensor) -> Tensor:
        """Rows of the hashed table.

        Args:
            code_points: integers (B, L), 0 is padding.

        Returns:
            int32 (B, F), unordered; F = (L + 1) x (number of orders); words take places that n-grams leave
            free, but where all n-grams are pairs.
        """
        known = code_points.clamp(max=LAST_LETTER + 1)
        letters = F.embedding(known, self.symbols).transpose(1, 2)  # (B, 2, L)
        marked = F.pad(letters, (_BEFORE + 1, self._after))  # # at both ends
        hashes = F.conv1d(marked, self.windows, self.bias).relu()  # (B, kernels, L + 1)
        if self.words:
            hashes = F.conv1d(hashes, self.slots)  # of the kernels of a slot at most one is above zero
        rows = hashes.int() % self.modulus
        return rows.squeeze(1) if len(self.slots) == 1 else rows.flatten(1)


def _ngram(order: int, base: int, generator: torch.Generator) -> tuple[Tensor, float]:
    """Weights (2, width) and bias of the n-grams around each place.

    An n-gram may begin or end with a separator, but holds none inside. Of three and more symbols it begins
    one place before.
    """
    inside = max(0, order - 2)
    highest = _highest(inside, order - inside, base)
    begin = _BEFORE if order < 3 else 0
    weights = torch.zeros(2, begin + order)
    weights[0, begin:] = _random(1, highest // _END, order, generator)
    weights[0, _BEFORE : _BEFORE + inside] = _random(highest - highest // 2, highest, inside, generator)
    weights[1, begin:] = _random(1, highest, order, generator)
    return weights, -base * float(weights[0, _BEFORE : _BEFORE + inside].sum())


def _word(length: int, base: int, generator: torch.Generator) -> tuple[Tensor, float]:
    """Weights (2, width) and bias of the words of a length that begin behind each place."""
    highest = _highest(length, 0, base)
    begin = _BEFORE + 1
    weights = torch.zeros(2, begin + length + (length < LONGEST_WORD))
    weights[0, _BEFORE:] = -math.ceil(2 * _DIGIT * length * highest / base)  # the separators around the word
    weights[0, begin : begin + length] = _random(highest - highest // 2, highest, length, generator)
    weights[1, begin : begin + length] = _random(1, highest, length, generator)
    return weights, -base * float(weights[0, begin : begin + length].sum())


def _highest(letters: int, ends: int, base: int) -> int:
    """The highest multiplier with which all sums over a window are exact.

    Multipliers of the base are at least half of it for letters that must be there, and at most an eighth for
    the ends of an n-gram: then the base of a missing letter is more than all that the others add to theirs.
    """
    return _EXACT // (letters * (base + 8 * _DIGIT) + ends * (base // _END + 2 * _DIGIT))


def _random(lowest: int, highest: int, count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(lowest, highest + 1, (count,), generator=generator).float()


def look_up(table: Tensor, index: Tensor) -> Tensor:
    """`table[index]` of a table with one dimension, in the form that exports to a Gather."""
    found: Tensor = F.embedding(index, table[:, None]).squeeze(-1)
    return found


@functools.cache
def symbols(base: int) -> Tensor:
    """(LAST_LETTER + 2, 2): of letters, marks and numbers two random digits, the first on a base."""
    generator = torch.Generator().manual_seed(1979)
    table = torch.randint(1, _DIGIT + 1, (LAST_LETTER + 2, 2), generator=generator).float()
    table[:, 0] += base
    is_letter = [unicodedata.category(chr(point))[0] in "LMN" for point in range(LAST_LETTER + 1)]
    return table * torch.tensor([*is_letter, False])[:, None]


def _largest_prime(limit: int) -> int:
    candidate = limit
    while any(candidate % divisor == 0 for divisor in range(2, int(candidate**0.5) + 1)):
        candidate -= 1
    return candidate
