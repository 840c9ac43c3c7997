"""A large table has the same gradient as a small one, as rows."""

import pytest
import torch

from tests.train.models.test_tower_factory import KINDS, SCHEMAS, built, inputs
from twinspire.protos.features import SIDES
from twinspire.train.config.towers import ClicksTower
from twinspire.train.models import encoders
from twinspire.train.models.encoders import CategoryEncoder, HashedTextEncoder, TextBags, touched
from twinspire.train.models.text_hashing import WordHashing
from twinspire.train.models.tower_factory import architecture_of
from twinspire.train.models.towers import Tower

ROWS = torch.tensor([[3, 1], [3, 0]])


def gradients(towers: tuple[Tower, Tower], schema: str) -> list[torch.Tensor | None]:
    """Of all parameters, from the squares of the vectors of both sides."""
    parameters = [*{parameter: None for tower in towers for parameter in tower.parameters()}]
    for parameter in parameters:
        parameter.grad = None
    for tower, side in zip(towers, SIDES, strict=True):
        tower(inputs(schema, side)).square()[:, ::2].sum().backward()
    return [parameter.grad for parameter in parameters]


@pytest.mark.parametrize("schema", ["ids", "everything"])
@pytest.mark.parametrize("kind", ["attention", "sum", "sum and latent", "bag", "clicks"])
def test_gradients_of_large_tables_are_the_same(
    kind: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "clicks":
        torch.manual_seed(0)
        towers = architecture_of(ClicksTower("clicks", dimension=4, buckets=64)).build(SCHEMAS[schema])
        for tower in towers:
            tower.eval()
    else:
        assert kind in KINDS
        towers = built(kind, schema)
    dense = gradients(towers, schema)
    monkeypatch.setattr(encoders, "ROWS_FROM", 1)
    rows = gradients(towers, schema)
    assert any(each is not None and each.is_sparse for each in rows)
    for expected, found in zip(dense, rows, strict=True):
        assert (expected is None) == (found is None)
        if expected is not None and found is not None:
            torch.testing.assert_close(found.to_dense() if found.is_sparse else found, expected)


def test_bags_of_texts_touch_the_rows_that_they_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    table = torch.nn.Parameter(torch.randn(64, 4))
    encoder = HashedTextEncoder(WordHashing((3,), True, 64), table, torch.nn.Parameter(torch.rand(64)))
    bags = TextBags(
        torch.tensor([5, 9, 9], dtype=torch.int32), torch.ones(3), torch.tensor([0, 2], dtype=torch.int32)
    )
    encoder(bags).square().sum().backward()
    expected, table.grad = table.grad, None
    monkeypatch.setattr(encoders, "ROWS_FROM", 1)
    encoder(bags).square().sum().backward()
    assert table.grad is not None and expected is not None
    assert table.grad.is_sparse
    assert table.grad.coalesce().indices().tolist() == [[5, 9]]
    torch.testing.assert_close(table.grad.to_dense(), expected)


@pytest.mark.parametrize("saturate", [False, True])
def test_gradients_of_bags_are_those_of_the_sums(saturate: bool) -> None:
    """One text is empty, and rows occur in several."""
    torch.manual_seed(0)
    table = torch.nn.Parameter(torch.randn(8, 3, dtype=torch.float64))
    weights = torch.nn.Parameter(torch.rand(8, dtype=torch.float64))
    encoder = HashedTextEncoder(WordHashing((3,), True, 8), table, weights, saturate)
    rows, counts = torch.tensor([5, 2, 3, 5, 7], dtype=torch.int32), torch.tensor([1.0, 2, 3, 4, 1])
    bags = TextBags(rows, counts.double(), torch.tensor([0, 2, 2], dtype=torch.int32))

    def sums(*_: torch.Tensor) -> torch.Tensor:
        vectors: torch.Tensor = encoder(bags)
        return vectors

    assert torch.autograd.gradcheck(sums, (table, weights))


def test_padding_of_categories_gets_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = CategoryEncoder(6, 4)
    monkeypatch.setattr(encoders, "ROWS_FROM", 1)
    encoder(ROWS).sum().backward()
    grad = encoder.embedding.weight.grad
    assert grad is not None and grad.is_sparse
    assert grad.to_dense()[[0, 2]].count_nonzero() == 0
    assert grad.to_dense()[[1, 3]].count_nonzero() == 8


def test_only_a_large_table_is_replaced_and_only_where_gradients_are_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = torch.nn.Parameter(torch.randn(6, 4))
    assert touched(table, ROWS) == (table, ROWS)
    monkeypatch.setattr(encoders, "ROWS_FROM", 24)
    found, rows = touched(table, ROWS)
    assert rows.tolist() == [[2, 1], [2, 0]]
    assert torch.equal(found[rows], table[ROWS])
    with torch.no_grad():
        assert touched(table, ROWS) == (table, ROWS)
