"""A history says the same as rows and as a place in a window, and no place knows what comes after it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from protos.features import UNKNOWN
from train.history import Attention, Forget, Ids, Nothing, Pooled, Thin, Windows, item_table

KNOWN, WIDTH, LONGEST = 12, 8, 6
ENCODERS: dict[str, Callable[[nn.Parameter], nn.Module]] = {
    "attention": lambda table: Attention(table, 2, 2, 0.1, 0.2, LONGEST + 1),
    "one layer": lambda table: Attention(table, 1, 4, 0.1, 0.2, LONGEST + 1),
    "sum": lambda table: Pooled(table, LONGEST + 1, mean=False, scale=2.0, decay=0.3),
    "mean": lambda table: Pooled(table, LONGEST + 1, mean=True),
}
KINDS = pytest.mark.parametrize("kind", ENCODERS)
HISTORY = st.lists(st.integers(2, KNOWN + 1), max_size=LONGEST)


def encoder(kind: str) -> nn.Module:
    """One that does not train, with random numbers in every parameter."""
    torch.manual_seed(0)
    made = ENCODERS[kind](item_table(KNOWN, WIDTH, 1.0))
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.7)
    return made.eval()


def rows_of(histories: list[list[int]], width: int = 0) -> Tensor:
    """int64 (B, L), 0 in front."""
    width = max(1, width, *map(len, histories))
    return torch.tensor([[0] * (width - len(each)) + each for each in histories])


def as_rows(made: nn.Module, histories: list[list[int]], width: int = 0) -> Tensor:
    with torch.no_grad():
        vectors: Tensor = made(rows_of(histories, width))
    return vectors


@KINDS
@settings(max_examples=30)
@given(runs=st.lists(HISTORY, min_size=1, max_size=4))
def test_a_place_in_a_window_is_the_history_up_to_it(kind: str, runs: list[list[int]]) -> None:
    made = encoder(kind)
    rows = rows_of(runs, max(map(len, runs)) + 1)
    width = rows.shape[1]
    asked = [(n, length) for n, run in enumerate(runs) for length in range(len(run) + 1)]
    places = [n * width + width - 1 - len(runs[n]) + length for n, length in asked]
    with torch.no_grad():
        found = made(Windows(rows, torch.tensor(places)))
    expected = torch.cat([as_rows(made, [runs[n][:length]]) for n, length in asked])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@KINDS
def test_no_place_knows_what_comes_after_it(kind: str) -> None:
    made = encoder(kind)
    run = [3, 9, 4, 12, 7]
    for place in range(LONGEST):  # 0 is the empty history
        for later in range(place, len(run)):
            other = [*run[:later], 13, *run[later + 1 :]]
            with torch.no_grad():
                one, two = (made(Windows(rows_of([each], 6), torch.tensor([place]))) for each in (run, other))
            assert torch.equal(one, two)


@KINDS
def test_no_gradient_comes_from_later_items_and_some_from_every_earlier_one(kind: str) -> None:
    made = encoder(kind)
    table: Tensor = made.table  # type: ignore[assignment]
    run = [3, 9, 4, 12, 7]
    for place in range(1, LONGEST):
        vector = made(Windows(rows_of([run], 6), torch.tensor([place])))
        (gradient,) = torch.autograd.grad((vector * torch.arange(WIDTH)).sum(), table)
        assert set(gradient.abs().sum(dim=1).nonzero().flatten().tolist()) == {*run[:place]}


@KINDS
@settings(max_examples=30)
@given(histories=st.lists(HISTORY, min_size=1, max_size=4), width=st.integers(1, LONGEST + 1))
def test_neither_padding_nor_neighbours_change_anything(
    kind: str, histories: list[list[int]], width: int
) -> None:
    made = encoder(kind)
    alone = torch.cat([as_rows(made, [each]) for each in histories])
    torch.testing.assert_close(as_rows(made, histories, width), alone, rtol=0, atol=1e-5)


@KINDS
def test_items_order_and_what_a_history_opens_with_count(kind: str) -> None:
    made = encoder(kind)
    vectors = as_rows(made, [[2, 3, 4], [3, 2, 4], [5, 3, 4], [3, 4], [2, 3, 4, 4]])
    assert torch.cdist(vectors, vectors).add(torch.eye(len(vectors))).min() > 0.01


def test_an_empty_history_is_the_start_however_it_is_padded() -> None:
    made = encoder("attention")
    start = as_rows(made, [[]])
    assert start.isfinite().all()
    assert start.abs().max() > 0.1
    for width in (2, LONGEST + 1):
        torch.testing.assert_close(as_rows(made, [[], [4]], width)[:1], start, rtol=0, atol=1e-6)
    with torch.no_grad():
        made.table[0, 0] += 1  # type: ignore[index, operator]
    assert (as_rows(made, [[]]) - start).abs().max() > 0.01


def test_no_other_place_looks_at_the_start() -> None:
    made = encoder("attention")
    before = as_rows(made, [[4, 7]], LONGEST)
    with torch.no_grad():
        made.table[0, 0] += 1  # type: ignore[index, operator]
    assert torch.equal(as_rows(made, [[4, 7]], LONGEST), before)


@pytest.mark.parametrize("kind", ["sum", "mean"])
def test_an_empty_history_weighs_nothing_in_a_sum(kind: str) -> None:
    assert torch.equal(as_rows(encoder(kind), [[], []], 3), torch.zeros(2, WIDTH))


@pytest.mark.parametrize("mean", [False, True])
@given(history=HISTORY)
def test_a_sum_written_as_a_loop(mean: bool, history: list[int]) -> None:
    made = encoder("mean" if mean else "sum")
    assert isinstance(made, Pooled)
    table, age = made.table.detach().double().numpy(), made.age.detach().double().numpy()
    total, weights = np.zeros(WIDTH), 0.0
    for old, row in enumerate(reversed(history)):
        weight = np.exp(age[-1 - old])
        total, weights = total + weight * table[row], weights + weight
    expected = total / weights if mean and history else total
    np.testing.assert_allclose(as_rows(made, [history])[0], expected, atol=1e-5)


def test_weights_start_as_told_and_those_that_are_used_are_learned() -> None:
    made = Pooled(item_table(KNOWN, WIDTH, 1.0), 5, mean=False, scale=4.0, decay=0.5)
    np.testing.assert_allclose(made.age.exp().tolist(), 4 * np.exp(-0.5 * np.arange(4, -1, -1)), rtol=1e-6)
    made(torch.tensor([[0, 5, 6]])).sum().backward()
    assert made.age.grad is not None
    assert (made.age.grad != 0).tolist() == [False, False, False, True, True]
    plain = Pooled(made.table, 5, mean=True)
    mean = plain(torch.tensor([[0, 5, 6, 5]])).detach()
    torch.testing.assert_close(mean[0], made.table.detach()[[5, 6, 5]].mean(dim=0))


def test_items_are_left_out_of_histories_while_training_and_keep_their_places() -> None:
    torch.manual_seed(0)
    thin, rows = Thin(0.8), torch.randint(2, 9, (1000, 40))
    windows = Windows(rows, torch.arange(5))
    thinned = thin(windows)
    assert isinstance(thinned, Windows)
    assert thinned.places is windows.places
    left = thinned.rows == rows
    assert (thinned.rows[~left] == 0).all()
    shares = 1 - left.float().mean(dim=1)
    assert 0.37 < shares.mean() < 0.43  # evenly from 0 to 0.8
    assert shares.std() > 0.15  # of each history another
    assert shares.min() < 0.05
    only_rows = thin(rows)
    assert isinstance(only_rows, Tensor)
    assert (only_rows == 0).any()
    assert Thin(0.0)(windows) is windows
    thin.eval()
    assert thin(windows) is windows
    assert thin(rows) is rows


def test_ids_are_forgotten_while_training() -> None:
    torch.manual_seed(0)
    forget, rows = Forget(0.25, KNOWN), torch.randint(2, 9, (4000, 1))
    forgotten = forget(rows)
    gone = forgotten != rows
    assert (forgotten[gone] == UNKNOWN).all()
    assert 0.22 < gone.float().mean() < 0.28
    assert Forget(0.0, KNOWN)(rows) is rows
    assert forget.eval()(rows) is rows


def test_some_ids_are_forgotten_more_often_than_others() -> None:
    torch.manual_seed(0)
    forget = Forget(0.2, 3)
    forget.weigh(torch.tensor([1.0, 2, 3]))
    rows = torch.arange(2, 5).repeat(4000)[:, None]
    gone = (forget(rows) == UNKNOWN).view(-1, 3).float().mean(dim=0)
    torch.testing.assert_close(gone, torch.tensor([0.1, 0.2, 0.3]), rtol=0, atol=0.03)
    forget.weigh(torch.tensor([0.0, 0, 9]))
    gone = (forget(rows) == UNKNOWN).view(-1, 3).float().mean(dim=0)
    assert gone[:2].max() == 0
    assert 0.5 < gone[2] < 0.9  # of 3 x 0.2, within bounds


def test_an_id_is_its_row_and_nothing_is_nothing() -> None:
    table = item_table(KNOWN, WIDTH, 1.0)
    assert table.shape == (KNOWN + 2, WIDTH)
    assert torch.equal(Ids(table)(torch.tensor([[5], [1]])), table[[5, 1]])
    for history in (
        torch.tensor([[0, 2], [0, 0], [3, 4]]),
        Windows(torch.ones(1, 4).long(), torch.arange(3)),
    ):
        assert torch.equal(Nothing(4)(history), torch.zeros(3, 4))
