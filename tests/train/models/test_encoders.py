"""Feature encoders: both input forms of a text give one result; padding and absent values are handled."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from twinspire.protos.inputs.texts import code_point_rows, folded
from twinspire.train.models.encoders import (
    MAX_OCCURRENCES,
    CategoryEncoder,
    HashedTextEncoder,
    NumberEncoder,
    TextBags,
)
from twinspire.train.models.prepared_inputs import hash_texts
from twinspire.train.models.text_hashing import WordHashing

BUCKETS, WIDTH = 1024, 8
HASHING = WordHashing((2, 3), words=True, buckets=BUCKETS)
KINDS = [(False, False), (True, False), (False, True), (True, True)]
REPEATS = ("ab " * 70, "ab " * 64, "aaaa " * 200 + "b", "")
TEXTS = st.lists(st.one_of(st.text(max_size=40), st.sampled_from(REPEATS)), min_size=1, max_size=4)

Encoder = Callable[..., HashedTextEncoder]


def encoder(saturate: bool = False, normalise: bool = False) -> HashedTextEncoder:
    torch.manual_seed(0)
    table = nn.Parameter(torch.randn(BUCKETS, WIDTH))
    return HashedTextEncoder(HASHING, table, nn.Parameter(torch.rand(BUCKETS) + 0.5), saturate, normalise)


def points(texts: Sequence[str]) -> Tensor:
    return torch.from_numpy(code_point_rows(folded(texts, 2000)))


def bags(texts: Sequence[str]) -> TextBags:
    return hash_texts(texts, 2000, HASHING).bags(np.arange(len(texts)))


@pytest.mark.parametrize(("saturate", "normalise"), KINDS)
@given(texts=TEXTS)
def test_bags_and_code_points_give_the_same(saturate: bool, normalise: bool, texts: list[str]) -> None:
    text = encoder(saturate, normalise)
    with torch.no_grad():
        fast, exported = text(bags(texts)), text(points(texts))
    torch.testing.assert_close(fast, exported, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("saturate", "normalise"), KINDS)
def test_both_input_forms_have_the_same_gradients(saturate: bool, normalise: bool) -> None:
    texts = ["read a file", "aaaa " * 30, "read read", ""]
    towards = torch.arange(1.0, 1 + WIDTH)
    gradients = []
    for inputs in (bags, points):
        text = encoder(saturate, normalise)
        (text(inputs(texts)) @ towards).sum().backward()
        assert text.weights.grad is not None
        gradients.append((text.table.grad, text.weights.grad[1:]))
    for fast, exported in zip(*gradients, strict=True):
        torch.testing.assert_close(fast, exported, rtol=1e-4, atol=1e-4)


def test_a_text_is_the_weighted_sum_of_its_rows() -> None:
    text, corpus = encoder(), hash_texts(["read the read file"], 100, HASHING)
    with torch.no_grad():
        expected = sum(
            count * text.weights[row] * text.table[row]
            for row, count in zip(corpus.rows.tolist(), corpus.counts.tolist(), strict=True)
        )
        torch.testing.assert_close(text(points(["read the read file"]))[0], expected)
    assert 2.0 in corpus.counts


def test_repetitions_count_by_their_square_root_up_to_a_bound() -> None:
    saturated, plain = encoder(saturate=True), encoder()

    def of(text: HashedTextEncoder, times: int) -> Tensor:
        with torch.no_grad():
            found: Tensor = text(points(["ab " * times]))
            return found

    assert MAX_OCCURRENCES == 64
    for times in (4, 9, 64):
        torch.testing.assert_close(of(saturated, times), of(saturated, 1) * math.sqrt(times))
    for more in (65, 200):
        torch.testing.assert_close(of(saturated, more), of(saturated, 64))
        torch.testing.assert_close(of(plain, more), of(plain, 1) * more, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("saturate", "normalise"), KINDS)
def test_the_weight_of_padding_stays_zero(saturate: bool, normalise: bool) -> None:
    text = encoder(saturate, normalise)
    texts = ["read a file", "x", "read", ""]
    optimiser = torch.optim.Adam(text.parameters(), lr=0.1)
    for _ in range(4):
        optimiser.zero_grad()
        (text(bags(texts)) @ torch.ones(WIDTH)).sum().backward()
        optimiser.step()
    assert text.weights[0] == 0
    with torch.no_grad():
        before = text(points(texts))
        text.table[0] = 1e6  # the exported graph reads it for padding
        assert torch.equal(text(points(texts)), before)
        torch.testing.assert_close(text(bags(texts)), before, rtol=1e-4, atol=1e-4)


def test_an_empty_text_is_the_zero_vector() -> None:
    for kind in KINDS:
        for inputs in (bags, points):
            found = encoder(*kind)(inputs(["", "...", "a"]))
            assert found[:2].abs().max() == 0 < found[2].abs().max()


def test_normalised_texts_are_of_unit_length() -> None:
    with torch.no_grad():
        found = encoder(normalise=True)(bags(["a", "a long text about files", "x" * 300]))
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))


def test_a_category_is_the_mean_without_padding() -> None:
    torch.manual_seed(0)
    category = CategoryEncoder(5, WIDTH)
    table = category.embedding.weight.detach()
    with torch.no_grad():
        narrow = category(torch.tensor([[2, 4], [3, 0], [1, 1]]))
        wide = category(torch.tensor([[2, 4, 0, 0], [3, 0, 0, 0], [0, 1, 0, 1]]))
        empty = category(torch.zeros(1, 3, dtype=torch.int64))
    torch.testing.assert_close(narrow[0], (table[2] + table[4]) / 2)
    torch.testing.assert_close(narrow[1:], table[[3, 1]])
    torch.testing.assert_close(wide, narrow)
    assert empty.abs().max() == 0


def test_padding_of_a_category_stays_zero_in_training() -> None:
    category = CategoryEncoder(4, WIDTH)
    optimiser = torch.optim.Adam(category.parameters(), lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        category(torch.tensor([[2, 0], [0, 0]])).sum().backward()
        optimiser.step()
    weight = category.embedding.weight
    assert weight[0].abs().max() == 0
    assert weight[2].abs().max() > 0.1


def test_a_number_is_standardised_and_absence_is_learned() -> None:
    number = NumberEncoder(WIDTH, mean=10.0, deviation=4.0)
    rise, absent = number.map.weight.detach().T
    with torch.no_grad():
        found = number(torch.tensor([[10.0], [14.0], [2.0], [math.nan]]))
    torch.testing.assert_close(found, torch.stack([torch.zeros(WIDTH), rise, -2 * rise, absent]))
    assert NumberEncoder(WIDTH, mean=3.0, deviation=0.0)(torch.tensor([[3.0]])).abs().max() == 0


def test_an_extreme_number_leaves_the_vector_finite() -> None:
    number = NumberEncoder(WIDTH, mean=-10.0, deviation=0.25)
    for value in (1e30, -1e30, 3.4e38, -3.4e38):
        found = number(torch.tensor([[value]]))
        assert torch.isfinite(found.norm())
        assert found.norm() > 0
