"""A marked table has the same gradient, as rows; a table that is not marked is left alone."""

import pytest
import torch

from tests.train.models.test_tower_factory import KINDS, SCHEMAS, built, inputs
from twinspire.protos.features import SIDES
from twinspire.train.config.towers import ClicksTower
from twinspire.train.models.encoders import (
    CategoryEncoder,
    HashedTextEncoder,
    TextBags,
    is_marked,
    mark,
    touched,
)
from twinspire.train.models.text_hashing import WordHashing
from twinspire.train.models.tower_factory import architecture_of
from twinspire.train.models.towers import Tower
from twinspire.train.training.device import tables_of

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
def test_gradients_of_marked_tables_are_the_same(kind: str, schema: str) -> None:
    if kind == "clicks":
        torch.manual_seed(0)
        towers = architecture_of(ClicksTower("clicks", dimension=4, buckets=64)).build(SCHEMAS[schema])
        for tower in towers:
            tower.eval()
    else:
        assert kind in KINDS
        towers = built(kind, schema)
    dense = gradients(towers, schema)
    tables = tables_of(towers)
    assert tables
    for table in tables:
        mark(table)
    rows = gradients(towers, schema)
    assert any(each is not None and each.is_sparse for each in rows)
    for expected, found in zip(dense, rows, strict=True):
        assert (expected is None) == (found is None)
        if expected is not None and found is not None:
            torch.testing.assert_close(found.to_dense() if found.is_sparse else found, expected)


def test_bags_of_texts_touch_the_rows_that_they_hold() -> None:
    table = torch.nn.Parameter(torch.randn(64, 4))
    encoder = HashedTextEncoder(WordHashing((3,), True, 64), table, torch.nn.Parameter(torch.rand(64)))
    bags = TextBags(
        torch.tensor([5, 9, 9], dtype=torch.int32), torch.ones(3), torch.tensor([0, 2], dtype=torch.int32)
    )
    encoder(bags).square().sum().backward()
    expected, table.grad = table.grad, None
    mark(table)
    encoder(bags).square().sum().backward()
    assert table.grad is not None and expected is not None
    assert table.grad.is_sparse
    assert table.grad.coalesce().indices().tolist() == [[5, 9]]
    torch.testing.assert_close(table.grad.to_dense(), expected)


def test_padding_of_categories_gets_no_gradient() -> None:
    encoder = CategoryEncoder(6, 4)
    mark(encoder.embedding.weight)
    encoder(ROWS).sum().backward()
    grad = encoder.embedding.weight.grad
    assert grad is not None and grad.is_sparse
    assert grad.to_dense()[[0, 2]].count_nonzero() == 0
    assert grad.to_dense()[[1, 3]].count_nonzero() == 8


def test_only_a_marked_table_is_replaced_and_only_where_gradients_are_wanted() -> None:
    table = torch.nn.Parameter(torch.randn(6, 4))
    assert not is_marked(table)
    assert touched(table, ROWS) == (table, ROWS)
    mark(table)
    found, rows = touched(table, ROWS)
    assert rows.tolist() == [[2, 1], [2, 0]]
    assert torch.equal(found[rows], table[ROWS])
    with torch.no_grad():
        assert touched(table, ROWS) == (table, ROWS)
