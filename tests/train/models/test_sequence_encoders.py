"""A history as rows and as a position in a window gives one vector; no position depends on later items."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from twinspire.train.models.architectures.comirec import InterestsEncoder
from twinspire.train.models.sequence_encoders import (
    AttentionEncoder,
    HistoryDropout,
    PoolingEncoder,
    Windows,
    item_table,
)

KNOWN, WIDTH, LONGEST = 12, 8, 6
ENCODERS: dict[str, Callable[[nn.Parameter], nn.Module]] = {
    "attention": lambda table: AttentionEncoder(table, 2, 2, 0.1, 0.2, LONGEST + 1),
    "one layer": lambda table: AttentionEncoder(table, 1, 4, 0.1, 0.2, LONGEST + 1),
    "sum": lambda table: PoolingEncoder(table, LONGEST + 1, mean=False, scale=2.0, decay=0.3),
    "mean": lambda table: PoolingEncoder(table, LONGEST + 1, mean=True),
    "interests": lambda table: InterestsEncoder(table, 3, 16, 0.1, LONGEST + 1),
}
KINDS = pytest.mark.parametrize("kind", ENCODERS)
HISTORY = st.lists(st.integers(2, KNOWN + 1), max_size=LONGEST)


def encoder(kind: str) -> nn.Module:
    """An encoder in evaluation mode with random parameters."""
    torch.manual_seed(0)
    module = ENCODERS[kind](item_table(KNOWN, WIDTH, 1.0))
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.7)
    return module.eval()


def rows_of(histories: list[list[int]], width: int = 0) -> Tensor:
    """int64 (B, L), 0 in front."""
    width = max(1, width, *map(len, histories))
    return torch.tensor([[0] * (width - len(each)) + each for each in histories])


def encode_rows(module: nn.Module, histories: list[list[int]], width: int = 0) -> Tensor:
    with torch.no_grad():
        vectors: Tensor = module(rows_of(histories, width))
    return vectors.flatten(1)  # of several interests side by side


@KINDS
@settings(max_examples=30)
@given(runs=st.lists(HISTORY, min_size=1, max_size=4))
def test_a_position_in_a_window_encodes_the_history_up_to_it(kind: str, runs: list[list[int]]) -> None:
    module = encoder(kind)
    rows = rows_of(runs, max(map(len, runs)) + 1)
    width = rows.shape[1]
    records = [(n, length) for n, run in enumerate(runs) for length in range(len(run) + 1)]
    places = [n * width + width - 1 - len(runs[n]) + length for n, length in records]
    with torch.no_grad():
        found = module(Windows(rows, torch.tensor(places))).flatten(1)
    expected = torch.cat([encode_rows(module, [runs[n][:length]]) for n, length in records])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@KINDS
def test_no_position_depends_on_later_items(kind: str) -> None:
    module = encoder(kind)
    run = [3, 9, 4, 12, 7]
    for place in range(LONGEST):  # 0 is the empty history
        for later in range(place, len(run)):
            other = [*run[:later], 13, *run[later + 1 :]]
            with torch.no_grad():
                one, two = (
                    module(Windows(rows_of([each], 6), torch.tensor([place]))) for each in (run, other)
                )
            assert torch.equal(one, two)


@KINDS
@settings(max_examples=30)
@given(histories=st.lists(HISTORY, min_size=1, max_size=4), width=st.integers(1, LONGEST + 1))
def test_padding_and_other_records_have_no_effect(kind: str, histories: list[list[int]], width: int) -> None:
    module = encoder(kind)
    alone = torch.cat([encode_rows(module, [each]) for each in histories])
    torch.testing.assert_close(encode_rows(module, histories, width), alone, rtol=0, atol=1e-5)


@KINDS
def test_items_their_order_and_the_first_item_matter(kind: str) -> None:
    module = encoder(kind)
    vectors = encode_rows(module, [[2, 3, 4], [3, 2, 4], [5, 3, 4], [3, 4], [2, 3, 4, 4]])
    assert torch.cdist(vectors, vectors).add(torch.eye(len(vectors))).min() > 0.01


def test_an_empty_history_has_a_learned_embedding_at_any_padding() -> None:
    module = encoder("attention")
    start = encode_rows(module, [[]])
    assert start.isfinite().all()
    assert start.abs().max() > 0.1
    for width in (2, LONGEST + 1):
        torch.testing.assert_close(encode_rows(module, [[], [4]], width)[:1], start, rtol=0, atol=1e-6)
    with torch.no_grad():
        module.table[0, 0] += 1  # type: ignore[index, operator]
    assert (encode_rows(module, [[]]) - start).abs().max() > 0.01


def test_no_other_position_attends_to_the_empty_history() -> None:
    module = encoder("attention")
    before = encode_rows(module, [[4, 7]], LONGEST)
    with torch.no_grad():
        module.table[0, 0] += 1  # type: ignore[index, operator]
    assert torch.equal(encode_rows(module, [[4, 7]], LONGEST), before)


@pytest.mark.parametrize("mean", [False, True])
@given(history=HISTORY)
def test_pooling_equals_a_loop(mean: bool, history: list[int]) -> None:
    module = encoder("mean" if mean else "sum")
    assert isinstance(module, PoolingEncoder)
    table, age = module.table.detach().double().numpy(), module.age.detach().double().numpy()
    total, weights = np.zeros(WIDTH), 0.0
    for old, row in enumerate(reversed(history)):
        weight = np.exp(age[-1 - old])
        total, weights = total + weight * table[row], weights + weight
    expected = total / weights if mean and history else total
    np.testing.assert_allclose(encode_rows(module, [history])[0], expected, atol=1e-5)


def test_history_dropout_drops_items_in_training_and_keeps_positions() -> None:
    torch.manual_seed(0)
    dropout, rows = HistoryDropout(0.8), torch.randint(2, 9, (1000, 40))
    windows = Windows(rows, torch.arange(5))
    dropped = dropout(windows)
    assert isinstance(dropped, Windows)
    assert dropped.places is windows.places
    left = dropped.rows == rows
    assert (dropped.rows[~left] == 0).all()
    shares = 1 - left.float().mean(dim=1)
    assert 0.37 < shares.mean() < 0.43  # evenly from 0 to 0.8
    assert shares.std() > 0.15  # a separate share for each history
    assert shares.min() < 0.05
    only_rows = dropout(rows)
    assert isinstance(only_rows, Tensor)
    assert (only_rows == 0).any()
    assert HistoryDropout(0.0)(windows) is windows
    dropout.eval()
    assert dropout(windows) is windows
    assert dropout(rows) is rows
