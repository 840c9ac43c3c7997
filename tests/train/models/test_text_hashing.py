"""Word hashing as a convolution equals a reference that hashes word by word."""

import unicodedata
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from twinspire.protos.inputs.texts import code_point_rows, folded, normalise
from twinspire.protos.lexical import SPLIT_INTO_CHARACTERS
from twinspire.train.config.tower_section import MAX_NGRAM
from twinspire.train.models.text_hashing import HASHING_VERSION, LAST_LETTER, MAX_WORD_LENGTH, WordHashing

BUCKETS = 4096
PRIME = 4093  # the largest below BUCKETS
PAPER = WordHashing((3,), words=False, buckets=BUCKETS)
WORDS = WordHashing((3,), words=True, buckets=BUCKETS)
ALL_ORDERS = WordHashing((1, 2, 3, 4), words=True, buckets=BUCKETS)
LONG_NGRAMS = WordHashing((1, 5, MAX_NGRAM), words=True, buckets=BUCKETS)
UNICODE = st.text(st.one_of(st.sampled_from("ab #-日\u0301"), st.characters()), max_size=60)


def rows_of(hashing: WordHashing, *texts: str) -> list[Counter[int]]:
    """How often each row occurs in each text."""
    rows = hashing(torch.from_numpy(code_point_rows(folded(texts, 10_000))))
    return [Counter(row[row > 0].tolist()) for row in rows]


def rows_in(hashing: WordHashing, text: str) -> Counter[int]:
    (rows,) = rows_of(hashing, text)
    return rows


def words_of(text: str) -> list[list[int]]:
    """The runs of letters, marks and numbers, as code points."""
    words: list[list[int]] = [[]]
    for letter in normalise(text):
        if unicodedata.category(letter)[0] in "LMN" and ord(letter) <= LAST_LETTER:
            words[-1].append(ord(letter))
        elif words[-1]:
            words.append([])
    return [word for word in words if word]


def hashed(hashing: WordHashing, letters: list[int], kernel: int, start: int) -> int:
    """The hash of symbols by a kernel's multipliers from position `start`, in integers."""
    multipliers = hashing.windows[kernel, :, start : start + len(letters)].long()
    numbers = hashing.symbols[letters].T.long()
    return (int((numbers * multipliers).sum()) + int(hashing.bias[kernel])) % PRIME


def expected(hashing: WordHashing, text: str) -> Counter[int]:
    """The reference: one word after another."""
    found: Counter[int] = Counter()
    for word in words_of(text):
        marked = [0, *word, 0]
        for place, order in enumerate(hashing.orders):
            grams = [marked[at : at + order] for at in range(len(marked) - order + 1)]
            found.update(hashed(hashing, gram, place, 1 if order < 3 else 0) for gram in grams)
        if hashing.words:
            known = word[:MAX_WORD_LENGTH]
            found[hashed(hashing, known, len(hashing.orders) + len(known) - 1, 2)] += 1
    del found[0]
    return found


@given(UNICODE)
def test_any_text_is_hashed_as_by_the_reference(text: str) -> None:
    for hashing in (PAPER, ALL_ORDERS, LONG_NGRAMS):
        assert rows_in(hashing, text) == expected(hashing, text)


@given(st.lists(UNICODE, min_size=1, max_size=5))
def test_other_texts_and_padding_have_no_effect(texts: list[str]) -> None:
    together = rows_of(ALL_ORDERS, *texts, "x" * 200)[:-1]
    assert together == [rows_in(ALL_ORDERS, text) for text in texts]


def word_row(word: str) -> int:
    """The row of a word, without those of its trigrams."""
    (row,) = rows_in(WORDS, word) - rows_in(PAPER, word)
    return row


def test_a_long_word_is_hashed_by_its_first_letters() -> None:
    longest, longer = "x" * MAX_WORD_LENGTH, "x" * (MAX_WORD_LENGTH + 1)
    assert word_row(longest) == word_row(longer)
    assert word_row(longest) in rows_in(WORDS, f"before {longest} after")
    assert word_row(longest[1:]) != word_row(longest)
    assert word_row(longest) not in rows_in(WORDS, f"y{longer}")


def test_every_sum_of_a_hash_is_exact_in_single_precision() -> None:
    for hashing in (PAPER, WORDS, ALL_ORDERS, LONG_NGRAMS):
        parts = hashing.windows * hashing.symbols.max(dim=0).values[None, :, None]
        assert parts.clamp(min=0).sum(dim=(1, 2)).max() <= 2**24
        assert (parts.clamp(max=0).sum(dim=(1, 2)) + hashing.bias.clamp(max=0)).min() >= -(2**24)
        for values in (hashing.windows, hashing.bias, hashing.symbols):
            assert torch.equal(values, values.round())


def test_no_sum_with_a_missing_letter_is_positive() -> None:
    for hashing in (PAPER, WORDS, ALL_ORDERS, LONG_NGRAMS):
        known = hashing.symbols[hashing.symbols[:, 0] > 0]
        highest, lowest = known.max(dim=0).values, known.min(dim=0).values
        for kernel, (weights, bias) in enumerate(zip(hashing.windows, hashing.bias, strict=True)):
            most = (weights * highest[:, None]).clamp(min=0).sum(dim=0)  # of each place
            order = hashing.orders[kernel] if kernel < len(hashing.orders) else None
            letters = weights[0] > 0 if order is None else torch.arange(len(most)) < 0
            if order is not None:
                letters[1 : order - 1] = order > 2  # those inside an n-gram
            for place in letters.nonzero():
                assert most.sum() - most[place] + bias <= 0
            for place in (weights[0] < 0).nonzero():  # a letter where a word must have ended
                assert most.sum() + weights[0, place] * lowest[0] + bias <= 0
            assert (weights * lowest[:, None])[
                :, letters
            ].sum() + bias >= letters.any()  # no n-gram or word is missed


def test_rows_are_those_of_this_version() -> None:
    """If rows change without a new version, towers trained before are exported with the wrong rows."""
    rows = {
        "an": [204, 254, 758, 1601, 1923, 2435, 2621, 2758, 3401],
        "日本": [283, 397, 474, 1885, 2069, 2425, 2558, 2703, 4002],
    }
    assert {text: sorted(rows_in(ALL_ORDERS, text).elements()) for text in rows} == rows
    assert HASHING_VERSION == 3


def test_rows_stay_inside_the_table() -> None:
    text = "".join(map(chr, range(0x20, 0xD7FF, 7)))
    rows = ALL_ORDERS(torch.from_numpy(code_point_rows(folded([text], len(text)))))
    assert rows.dtype == torch.int32
    assert 0 <= rows.min() < rows.max() < BUCKETS
    assert rows.unique().numel() > BUCKETS / 2  # and fill it


@pytest.mark.parametrize("orders", [(), (1,), (2,), (2, 5), (5,)], ids=str)
def test_words_are_hashed_beside_ngrams_of_any_length(orders: tuple[int, ...]) -> None:
    hashing = WordHashing(orders, words=True, buckets=BUCKETS)
    assert [sum(rows.values()) for rows in rows_of(WordHashing((), True, BUCKETS), "", "one two two")] == [
        0,
        3,
    ]
    for text in ("", "one", "one two-two", "a b c", "implementations of", " é  日本語"):
        assert sum(rows_in(WordHashing((), True, BUCKETS), text).values()) == len(words_of(text))
        assert rows_in(hashing, text) == expected(hashing, text)


BY_SCRIPT = [
    WordHashing(orders, words, BUCKETS, characters)
    for orders, words, characters in (
        ((3,), True, (1, 2)),
        ((3,), True, (2,)),
        ((2,), True, (1, 2)),
        ((), True, (1,)),
        ((1, 2, 3), False, (1, 2, 3, 4)),
        ((2, 5), True, (1, 3)),
    )
]
PARTS = st.lists(st.sampled_from(["git", "a", "read", " ", "-", "東", "京都", "ใคร", "かな"]), max_size=12)


def unspaced(letter: str) -> bool:
    return any(first <= ord(letter) <= last for first, last in SPLIT_INTO_CHARACTERS)


def by_script(hashing: WordHashing, text: str) -> Counter[int]:
    """The reference: characters of scripts without spaces separate the words of the others."""
    letters = normalise(text)
    spaced = "".join(" " if unspaced(letter) else letter for letter in letters)
    found = expected(hashing, spaced)
    others = words_of("".join(letter if unspaced(letter) else " " for letter in letters))
    first = len(hashing.windows) - len(hashing.characters)
    for word in others:
        for place, length in enumerate(hashing.characters):
            grams = [word[at : at + length] for at in range(len(word) - length + 1)]
            found.update(hashed(hashing, gram, first + place, 1) for gram in grams)
    del found[0]
    return found


@given(st.one_of(PARTS.map("".join), UNICODE))
def test_scripts_without_spaces_are_hashed_by_characters_beside_words(text: str) -> None:
    for hashing in BY_SCRIPT:
        assert rows_in(hashing, text) == by_script(hashing, text)


def test_a_word_between_chinese_characters_has_the_rows_of_the_word() -> None:
    hashing = BY_SCRIPT[0]
    git, use, push = (rows_in(hashing, text) for text in ("git", "使用", "提交"))
    assert rows_in(hashing, "使用git提交") == git + use + push
    assert sum(git.values()) == 4  # three trigrams and the word
    assert sum(use.values()) == 3  # two characters and the pair
    without = rows_in(WORDS, "使用git提交") & rows_in(WORDS, "git")
    assert sum(without.values()) == 1  # one long word, of which only the trigram inside is that of the word


def test_characters_leave_texts_with_spaces_as_they_are() -> None:
    text = "The quick brown fox, très vite"
    assert sum(rows_in(BY_SCRIPT[0], text).values()) == sum(rows_in(WORDS, text).values())
    with_slots, without = BY_SCRIPT[0].slots, WORDS.slots
    assert len(with_slots) == 2 and len(without) == 1  # single characters need a slot of their own


def test_sums_over_characters_are_exact_and_need_every_character() -> None:
    for hashing in BY_SCRIPT:
        highest = hashing.symbols.max(dim=0).values
        lowest = hashing.symbols[hashing.symbols[:, 2] > 0].min(dim=0).values
        for weights, bias in list(zip(hashing.windows, hashing.bias, strict=True))[
            -len(hashing.characters) :
        ]:
            most, least = (weights * highest[:, None]).sum(dim=0), (weights * lowest[:, None]).sum()
            assert most.sum() <= 2**24 and -bias <= 2**24
            assert least + bias >= 1  # no n-gram is missed
            for place in (weights[2] > 0).nonzero():
                assert most.sum() - most[place] + bias <= 0


def test_common_chinese_characters_have_numbers_of_their_own() -> None:
    common, two_numbers = (
        {tuple(row) for row in hashing.symbols[0x4E00 : 0x4E00 + 3000].tolist()}
        for hashing in (BY_SCRIPT[0], WORDS)
    )
    assert len(common) >= 2990
    assert len(two_numbers) < 2800
