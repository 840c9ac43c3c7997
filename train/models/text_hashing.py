"""Word hashing as a convolution: code points -> rows of an embedding table.

Huang et al. 2013, section 3.2: a word is marked with `#` at both ends and split into letter n-grams; a text
is a bag of n-grams. Here the bag may also hold whole words. N-grams and words are hashed into the rows of one
table. Training, the exported graph and the service run the same operations, so there is no vocabulary and no
tokenizer to keep in sync.

Characters other than letters, marks and numbers of Unicode separate words. Separators and padding are both
symbol 0, which is `#`, so padding does not change the n-grams of a text.

A script without spaces, such as Chinese, has no words to mark: its characters are hashed one by one and in
pairs, if the towers ask for that, and then separate the words of other scripts.

A hash that is linear in the symbols of a window is a convolution. The test whether the window is an n-gram or
a word is part of the same convolution: an output below zero means that it is not. The graph therefore has few
nodes, which makes it fast. Each letter is two random numbers; the first has a base added that is the same
for all letters and larger than the rest of a window's sum, so a missing letter makes the sum negative. All
numbers are integers below 2^24, which are exact in single precision, so every runtime computes the same rows.
"""

import functools
import math
import unicodedata
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twinspire.protos.lexical import SPLIT_INTO_CHARACTERS

HASHING_VERSION = 3  # increase when the rows of a text change: trained models become unusable
LAST_LETTER = 0x323AF  # code point, the end of CJK extension H; later letters separate words
MAX_WORD_LENGTH = 8  # letters; a longer word is hashed by its first letters, usually its stem
_BEFORE = 1  # symbols of a window before its position
_EXACT = 2**24  # integers up to this are exact in single precision
_DIGIT = 127  # the largest random number of a letter, without the base
_END = 8  # an end of an n-gram, which may be a separator, gets at most 1 / 8 of the largest multiplier


class WordHashing(nn.Module):
    """Hashes the n-grams and words of a text to rows `1 .. buckets - 1`; 0 is padding.

    A hash is the sum of the window's letters, two numbers each, times random multipliers, modulo a prime
    (Carter and Wegman 1979, proposition 7).

    Args:
        orders: lengths of the character n-grams, 1 to 16.
        buckets: rows of the table, including row 0.
        characters: lengths of the n-grams of scripts without spaces, 1 to 4, whose characters are then no
            part of words and of other n-grams. If empty, all scripts are treated alike.
    """

    symbols: Tensor
    windows: Tensor
    bias: Tensor
    slots: Tensor

    def __init__(
        self,
        orders: Sequence[int],
        words: bool,
        buckets: int,
        characters: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.orders = tuple(sorted(set(orders)))
        self.words = words
        self.characters = tuple(sorted(set(characters)))
        self.modulus = _largest_prime(buckets)
        generator = torch.Generator().manual_seed(2013)
        base = 4 * _DIGIT * max(MAX_WORD_LENGTH, 2 * max(self.orders, default=0))
        kernels = [_ngram(order, base, generator) for order in self.orders]
        slot_of = list(range(len(kernels)))  # the slot of each kernel
        if words:
            # The hash of a word is at the separator before it. Only bigrams have a hash there, too, so words
            # share the slot of another n-gram length.
            free = [slot for slot, order in enumerate(self.orders) if order != 2]
            slot_of += [free[0] if free else len(kernels)] * MAX_WORD_LENGTH
            kernels += [_word(length, base, generator) for length in range(1, MAX_WORD_LENGTH + 1)]
        for length in self.characters:
            slot_of.append(self._slot_of_characters(length, slot_of))
            kernels.append(_characters(length, base, generator))
        width = max(weights.shape[1] for weights, _ in kernels)
        height = max(weights.shape[0] for weights, _ in kernels)
        windows = torch.stack(
            [F.pad(each, (0, width - each.shape[1], 0, height - each.shape[0])) for each, _ in kernels]
        )
        table = symbols_by_script(base) if self.characters else symbols(base)
        self.register_buffer("symbols", table, persistent=False)
        self.register_buffer("windows", windows, persistent=False)  # (kernels, numbers of a letter, width)
        self.register_buffer("bias", torch.tensor([bias for _, bias in kernels]), persistent=False)
        slots = F.one_hot(torch.tensor(slot_of)).T.float()[:, :, None]
        self.register_buffer("slots", slots, persistent=False)  # (slots, kernels, 1)
        self._after = width - _BEFORE - 1

    def forward(self, code_points: Tensor) -> Tensor:
        """Rows of the hashed table.

        Args:
            code_points: integers (B, L), 0 is padding.

        Returns:
            int32 (B, F), unordered; F = (L + 1) x (number of slots). Words and characters of scripts without
            spaces use positions that the other n-grams leave free, where there are some.
        """
        known = code_points.clamp(max=LAST_LETTER + 1)
        letters = F.embedding(known, self.symbols).transpose(1, 2)  # (B, numbers of a letter, L)
        marked = F.pad(letters, (_BEFORE + 1, self._after))  # # at both ends
        hashes = F.conv1d(marked, self.windows, self.bias).relu()  # (B, kernels, L + 1)
        if self.words or self.characters:
            hashes = F.conv1d(hashes, self.slots)  # at most one kernel of a slot is above zero
        rows = hashes.int() % self.modulus
        return rows.squeeze(1) if len(self.slots) == 1 else rows.flatten(1)

    def _slot_of_characters(self, length: int, slot_of: Sequence[int]) -> int:
        """The first slot in which no other kernel can be above zero where these n-grams are.

        Two lengths begin at the same characters. A single character may stand before a word, whose hash is
        at that character, and before a pair of `#` and a letter.
        """
        taken = {*slot_of[len(slot_of) - self.characters.index(length) :]}
        if length == 1:
            taken |= {slot for slot, order in enumerate(self.orders) if order == 2}
            if self.words:
                taken.add(slot_of[len(self.orders)])
        return next(slot for slot in range(len(slot_of) + 1) if slot not in taken)


def _ngram(order: int, base: int, generator: torch.Generator) -> tuple[Tensor, float]:
    """Weights (2, width) and bias of the n-grams around each position.

    An n-gram may begin or end with a separator, but has none inside. N-grams of three and more symbols begin
    one position earlier.
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
    """Weights (2, width) and bias of the words of this length that begin after each position."""
    highest = _highest(length, 0, base)
    begin = _BEFORE + 1
    weights = torch.zeros(2, begin + length + (length < MAX_WORD_LENGTH))
    weights[0, _BEFORE:] = -math.ceil(2 * _DIGIT * length * highest / base)  # the separators around the word
    weights[0, begin : begin + length] = _random(highest - highest // 2, highest, length, generator)
    weights[1, begin : begin + length] = _random(1, highest, length, generator)
    return weights, -base * float(weights[0, begin : begin + length].sum())


def _characters(length: int, base: int, generator: torch.Generator) -> tuple[Tensor, float]:
    """Weights (5, width) and bias of the n-grams of scripts without spaces that begin at each position.

    The first two numbers are those of other scripts.
    """
    highest = _EXACT // (length * (base + 3 * _DIGIT))
    weights = torch.zeros(5, _BEFORE + length)
    weights[2, _BEFORE:] = _random(highest - highest // 2, highest, length, generator)
    weights[3, _BEFORE:] = _random(1, highest, length, generator)
    weights[4, _BEFORE:] = _random(1, highest, length, generator)
    return weights, -base * float(weights[2].sum())


def _highest(letters: int, ends: int, base: int) -> int:
    """The largest multiplier with which all sums over a window are exact.

    The first multiplier is at least half of it for required letters and at most an eighth of it for the ends
    of an n-gram. The base of a missing letter is then more than all that the other letters add to their base.
    """
    return _EXACT // (letters * (base + 8 * _DIGIT) + ends * (base // _END + 2 * _DIGIT))


def _random(lowest: int, highest: int, count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(lowest, highest + 1, (count,), generator=generator).float()


def look_up(table: Tensor, index: Tensor) -> Tensor:
    """`table[index]` of a one-dimensional table, in a form that is exported as one Gather node."""
    found: Tensor = F.embedding(index, table[:, None]).squeeze(-1)
    return found


@functools.cache
def symbols(base: int) -> Tensor:
    """(LAST_LETTER + 2, 2): two random numbers of each letter, mark and number; the first plus the base."""
    generator = torch.Generator().manual_seed(1979)
    table = torch.randint(1, _DIGIT + 1, (LAST_LETTER + 2, 2), generator=generator).float()
    table[:, 0] += base
    is_letter = [unicodedata.category(chr(point))[0] in "LMN" for point in range(LAST_LETTER + 1)]
    return table * torch.tensor([*is_letter, False])[:, None]


@functools.cache
def symbols_by_script(base: int) -> Tensor:
    """(LAST_LETTER + 2, 5): two numbers of the letters of scripts with spaces, three of the others'.

    Some scripts without spaces have thousands of characters. With two numbers each, of 127 values, one in six
    of 3,000 would have the numbers of another; with three, one in 700.
    """
    table = symbols(base)
    unspaced = torch.zeros(len(table), dtype=torch.bool)
    for first, last in SPLIT_INTO_CHARACTERS:
        unspaced[first : last + 1] = True
    generator = torch.Generator().manual_seed(1980)
    third = torch.randint(1, _DIGIT + 1, (len(table), 1), generator=generator).float()
    of_unspaced = torch.cat([table, third * (table[:, 1:] > 0)], dim=1) * unspaced[:, None]
    return torch.cat([table * ~unspaced[:, None], of_unspaced], dim=1)


def _largest_prime(limit: int) -> int:
    candidate = limit
    while any(candidate % divisor == 0 for divisor in range(2, int(candidate**0.5) + 1)):
        candidate -= 1
    return candidate
