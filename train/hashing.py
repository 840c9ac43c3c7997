"""Word hashing as a convolution: code points in, rows of a hashed table out.

Huang et al. 2013, section 3.2: a word is marked with `#` at both ends and broken into letter n-grams,
and a text is the bag of them. Here a text also holds its whole words, and n-grams and words share one
table by hashing. The operations are the same in training, in the exported graph and in the service, so
there is no vocabulary and no tokenizer to keep in step.

What is no letter, mark or number in Unicode separates words. Separators and padding are the same symbol,
0, which is `#`: a text is its words with zeros between them, however it is padded.

A hash that is linear in the symbols of a window is a convolution, and so is the question whether the
window is an n-gram or a word. All n-grams and words of a text are therefore one convolution, whose output
below zero means "none": a graph of few nodes, and few nodes are what makes it fast. The numbers are
integers below 2^24, which single precision holds exactly, so every library gives the same rows.
"""

import functools
import unicodedata
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAST_LETTER = 0x323AF  # of CJK extension H; the few letters beyond it separate words
LONGEST_WORD = 12  # letters; a longer one is known by its first
_BEFORE = 1  # symbols of a window before its place
_EXACT = 2**24  # integers up to here are exact in single precision
_DIGITS = 2  # numbers that tell a letter from others
_DIGIT_RANGE = 128


class WordHashing(nn.Module):
    """Hash the n-grams and words of a text into `1 .. buckets - 1`; 0 is "nothing here".

    A hash is the sum of the window's letters, two random digits each, times random multipliers, modulo a
    prime (Carter and Wegman 1979, proposition 7).

    Args:
        orders: lengths of the character n-grams, at least 1.
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
        kernels = [_ngram(order, generator) for order in self.orders]
        own = list(range(len(kernels)))  # the slot of each kernel
        if words:
            # A word stands at the separator before it, where no n-gram stands that has a letter there.
            free = [slot for slot, order in enumerate(self.orders) if order != 2]
            own += [free[0] if free else len(kernels)] * LONGEST_WORD
            kernels += [_word(length, generator) for length in range(1, LONGEST_WORD + 1)]
        width = max(weights.shape[1] for weights, _ in kernels)
        windows = torch.stack([F.pad(weights, (0, width - weights.shape[1])) for weights, _ in kernels])
        self.register_buffer("symbols", symbols(), persistent=False)
        self.register_buffer("windows", windows, persistent=False)  # (kernels, 3, width)
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
        letters = F.embedding(known, self.symbols).transpose(1, 2)  # (B, 3, L)
        marked = F.pad(letters, (_BEFORE + 1, self._after))  # # at both ends
        hashes = F.conv1d(marked, self.windows, self.bias).relu()  # (B, kernels, L + 1)
        if self.words:
            hashes = F.conv1d(hashes, self.slots)  # of the kernels of a slot at most one is above zero
        rows = hashes.int() % self.modulus
        return rows.squeeze(1) if len(self.slots) == 1 else rows.flatten(1)


def _ngram(order: int, generator: torch.Generator) -> tuple[Tensor, float]:
    """Weights (3, width) and bias of the n-grams around each place.

    An n-gram may begin or end with a separator, but holds none inside. Of three and more symbols it begins
    one place before.
    """
    inside = max(0, order - 2)
    start = 0 if order < 3 else -_BEFORE
    multipliers, bound = _multipliers(order, inside + 1, generator)
    weights = torch.zeros(_DIGITS + 1, _BEFORE + start + order)
    weights[:_DIGITS, _BEFORE + start :] = multipliers
    if inside:
        weights[_DIGITS, _BEFORE : _BEFORE + inside] = bound
    return weights, -float(inside * bound)


def _word(length: int, generator: torch.Generator) -> tuple[Tensor, float]:
    """Weights (3, width) and bias of the words of a length that begin behind each place."""
    multipliers, bound = _multipliers(length, length + 2, generator)
    begin = _BEFORE + 1
    weights = torch.zeros(_DIGITS + 1, begin + length + (length < LONGEST_WORD))
    weights[:_DIGITS, begin : begin + length] = multipliers
    weights[_DIGITS] = -bound  # the separators around the word
    weights[_DIGITS, :_BEFORE] = 0
    weights[_DIGITS, begin : begin + length] = bound
    return weights, -float(length * bound)


def _multipliers(letters: int, parts: int, generator: torch.Generator) -> tuple[Tensor, int]:
    """Random multipliers (2, letters), and a bound that no hash of them exceeds.

    Args:
        parts: how often the bound may be added up on the way to a sum, and that still be exact.
    """
    bound = _EXACT // parts
    highest = bound // (letters * _DIGITS * (_DIGIT_RANGE - 1))
    return torch.randint(1, highest + 1, (_DIGITS, letters), generator=generator).float(), bound


def look_up(table: Tensor, index: Tensor) -> Tensor:
    """`table[index]` of a table with one dimension, in the form that exports to a Gather."""
    found: Tensor = F.embedding(index, table[:, None]).squeeze(-1)
    return found


@functools.cache
def symbols() -> Tensor:
    """(LAST_LETTER + 2, 3): of a letter, mark or number two random digits and a 1; of others zeros."""
    generator = torch.Generator().manual_seed(1979)
    table = torch.randint(1, _DIGIT_RANGE, (LAST_LETTER + 2, _DIGITS + 1), generator=generator).float()
    table[:, _DIGITS] = 1
    is_letter = [unicodedata.category(chr(point))[0] in "LMN" for point in range(LAST_LETTER + 1)]
    return table * torch.tensor([*is_letter, False])[:, None]


def _largest_prime(limit: int) -> int:
    candidate = limit
    while any(candidate % divisor == 0 for divisor in range(2, int(candidate**0.5) + 1)):
        candidate -= 1
    return candidate
