"""Towers that read words in their order are the papers' networks, whatever form their input has."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from protos.inputs.texts import code_point_rows, folded
from train.config.towers import CdssmTower, LstmTower
from train.models.ordered_words import ConvolutionEncoder, LstmEncoder, WordBags, order_texts
from train.models.text_hashing import WordHashing

BUCKETS = 512
PAPER = WordHashing((3,), words=False, buckets=BUCKETS, ordered=True)
EVERY_LENGTH = WordHashing((1, 2, 3, 5), words=True, buckets=BUCKETS, ordered=True)
BY_CHARACTER = WordHashing((2, 3), words=True, buckets=BUCKETS, characters=(1, 2), ordered=True)
HASHINGS = pytest.mark.parametrize("hashing", [PAPER, EVERY_LENGTH, BY_CHARACTER], ids=str)
UNICODE = st.text(st.one_of(st.sampled_from("ab #-日\u0301"), st.characters()), max_size=30)
TEXTS = [
    "man bites dog",
    "",
    "dog bites man",
    "a",
    "...",
    "dog bites the dog that bites a man  twice",
    "日本 x",
]
Encoder = ConvolutionEncoder | LstmEncoder


def points(texts: list[str]) -> Tensor:
    return torch.from_numpy(code_point_rows(folded(texts, 200)))


def words_of(hashing: WordHashing, texts: list[str]) -> list[list[Counter[int]]]:
    """The rows of each word of each text."""
    found = []
    for rows, numbers, (count,) in zip(
        *(each.tolist() for each in hashing.in_order(points(texts))), strict=True
    ):
        words: list[Counter[int]] = [Counter() for _ in range(count)]
        for row, number in zip(rows, numbers, strict=True):
            assert (row == 0) == (number == 0)
            if row:
                words[number - 1][row] += 1
        found.append(words)
    return found


def counted(bags: WordBags) -> list[list[Counter[int]]]:
    """The same of hashed texts."""
    words, found = [], []
    ends = [*bags.offsets.tolist(), len(bags.rows)][1:]
    for at, end in zip(bags.offsets.tolist(), ends, strict=True):
        rows, counts = bags.rows[at:end].tolist(), bags.counts[at:end].long().tolist()
        words.append(Counter(dict(zip(rows, counts, strict=True))))
    for length in bags.lengths.tolist():
        found.append(words[:length])
        words = words[length:]
    assert not words
    return found


def encoder(kind: type[Encoder], hashing: WordHashing = PAPER) -> Encoder:
    torch.manual_seed(0)
    if kind is LstmEncoder:
        return LstmEncoder(hashing, nn.Parameter(torch.randn(BUCKETS, 5)), 4)
    return ConvolutionEncoder(hashing, nn.Parameter(torch.randn(BUCKETS, 3 * 6) / 4), 3)


def bags(texts: list[str], hashing: WordHashing = PAPER) -> WordBags:
    return order_texts(texts, 200, hashing).bags(np.arange(len(texts)))


BOTH = pytest.mark.parametrize("kind", [ConvolutionEncoder, LstmEncoder])


@HASHINGS
@settings(max_examples=25)
@given(words=st.lists(st.text("abcé", min_size=1, max_size=9), max_size=6))
def test_a_word_of_a_text_has_the_rows_that_it_has_alone(hashing: WordHashing, words: list[str]) -> None:
    assert words_of(hashing, [" - ".join(words)]) == [[words_of(hashing, [word])[0][0] for word in words]]


@HASHINGS
@settings(max_examples=25)
@given(texts=st.lists(UNICODE, min_size=1, max_size=4))
def test_the_words_together_are_the_bag_of_the_text(hashing: WordHashing, texts: list[str]) -> None:
    rows = hashing(points(texts))
    for words, whole in zip(words_of(hashing, texts), rows.tolist(), strict=True):
        assert sum(words, Counter()) == Counter(row for row in whole if row)


def test_characters_of_scripts_without_spaces_are_words() -> None:
    (words,) = words_of(BY_CHARACTER, ["ab搜索c 引"])
    alone = [words_of(BY_CHARACTER, [text])[0] for text in ("ab", "搜", "搜索", "索", "c", "引")]
    ab, search, pair, rope, c, lead = (each[0] for each in alone)
    assert words == [ab, pair, rope, c, lead]
    assert search < pair  # the pair belongs to its first character
    (one,) = words_of(PAPER, ["ab搜索c 引"])
    assert len(one) == 2  # without characters in the hashing, spaces alone divide


def test_a_word_without_rows_keeps_its_place() -> None:
    five = WordHashing((5,), words=False, buckets=BUCKETS, ordered=True)
    (words,) = words_of(five, ["a bcd"])  # #a# has no 5-gram
    assert [len(word) for word in words] == [0, 1]
    assert counted(bags(["a bcd"], five)) == [words]


@HASHINGS
@settings(max_examples=25)
@given(texts=st.lists(UNICODE, min_size=1, max_size=5), data=st.data())
def test_a_batch_holds_the_words_of_its_texts(
    hashing: WordHashing, texts: list[str], data: st.DataObject
) -> None:
    index = data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=6))
    found = counted(order_texts(texts, 200, hashing).bags(np.array(index, np.int64)))
    expected = words_of(hashing, texts)
    assert found == [expected[row] for row in index]


def test_thousands_of_texts_stay_in_their_order() -> None:
    texts = [f"text {n} " + "x " * (n % 13) for n in range(2500)]
    corpus = order_texts(texts, 40, PAPER)
    for n in (0, 1, 999, 1024, 2499):
        assert counted(corpus.bags(np.array([n]))) == words_of(PAPER, [texts[n]])


def word_vectors(text: str, table: np.ndarray) -> np.ndarray:
    """(words, H), by the definition."""
    (words,) = words_of(PAPER, [text])
    return np.array([sum(count * table[row] for row, count in word.items()) for word in words])


def test_the_convolution_is_that_of_the_paper() -> None:
    """Equations 2 and 3: h_t = tanh(W_c l_t) with l_t = [f_(t-1), f_t, f_(t+1)], v = max over t of h_t."""
    cdssm = encoder(ConvolutionEncoder)
    table = cdssm.table.detach().double().numpy()
    for text, found in zip(TEXTS, cdssm(points(TEXTS)).detach().numpy(), strict=True):
        if not (padded := [*word_vectors(text, table)]):
            continue
        padded = [np.zeros(18), *padded, np.zeros(18)]
        hidden = [
            np.tanh(padded[t - 1][:6] + padded[t][6:12] + padded[t + 1][12:])
            for t in range(1, len(padded) - 1)
        ]
        np.testing.assert_allclose(found, np.max(hidden, axis=0), atol=1e-6)


def test_the_lstm_gives_the_state_after_the_last_word() -> None:
    lstm = encoder(LstmEncoder)
    state = {name: each.double().numpy() for name, each in lstm.state_dict().items()}
    for text, found in zip(TEXTS, lstm(points(TEXTS)).detach().numpy(), strict=True):
        h = c = np.zeros(4)
        for word in word_vectors(text, state["table"]):
            gates = state["lstm.layer.weight_ih_l0"] @ word + state["lstm.layer.weight_hh_l0"] @ h
            gates = gates + state["lstm.layer.bias_ih_l0"] + state["lstm.layer.bias_hh_l0"]
            i, f, o = (1 / (1 + np.exp(-gates[at : at + 4])) for at in (0, 4, 12))
            c = f * c + i * np.tanh(gates[8:12])
            h = o * np.tanh(c)
        np.testing.assert_allclose(found, h, atol=1e-6)


@BOTH
@HASHINGS
def test_both_input_forms_have_the_same_vectors_and_gradients(
    kind: type[Encoder], hashing: WordHashing
) -> None:
    found = []
    for inputs in (points(TEXTS), bags(TEXTS, hashing)):
        text = encoder(kind, hashing)
        vectors = text(inputs)
        (vectors @ torch.arange(1.0, 1 + vectors.shape[1])).sum().backward()
        found.append([vectors, *(each.grad for each in text.parameters())])
    for exported, fast in zip(*found, strict=True):
        torch.testing.assert_close(exported, fast, rtol=1e-4, atol=1e-5)


@BOTH
@torch.no_grad()
def test_a_text_without_words_is_the_zero_vector(kind: type[Encoder]) -> None:
    text = encoder(kind)
    for empty in (["", "...", "#"], [""]):
        for inputs in (points(empty), bags(empty)):
            assert (text(inputs) == 0).all()
    assert (text(points(TEXTS)).abs().amax(dim=1) == 0).tolist() == [each in ("", "...") for each in TEXTS]


@BOTH
@torch.no_grad()
def test_padding_changes_nothing(kind: type[Encoder]) -> None:
    text, given = encoder(kind), points(TEXTS)
    wider = text(nn.functional.pad(given, (0, 70)))
    torch.testing.assert_close(wider, text(given), rtol=0, atol=1e-6)


@BOTH
@torch.no_grad()
def test_the_order_of_words_counts(kind: type[Encoder]) -> None:
    one, other = encoder(kind)(points(["man bites dog", "dog bites man"]))
    assert (one - other).abs().max() > 0.01


def test_the_papers_sizes_are_the_defaults() -> None:
    cdssm = CdssmTower("cdssm").with_english_defaults()
    assert (cdssm.orders, cdssm.window, cdssm.hidden, cdssm.dimension) == ((3,), 3, 300, 128)
    assert LstmTower("lstm").with_english_defaults().orders == (3,)
