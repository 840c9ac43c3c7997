"""A large table has the same gradient as a small one, as rows."""

import pytest
import torch

from tests.train.models.test_tower_factory import KINDS, SCHEMAS, built, inputs
from twinspire.protos.features import SIDES
from twinspire.train.config.towers import ClicksTower
from twinspire.train.models import encoders
from twinspire.train.models.encoders import CategoryEncoder
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


def test_padding_of_categories_gets_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = CategoryEncoder(6, 4)
    monkeypatch.setattr(encoders, "ROWS_FROM", 1)
    encoder(ROWS).sum().backward()
    grad = encoder.embedding.weight.grad
    assert grad is not None and grad.is_sparse
    assert grad.to_dense()[[0, 2]].count_nonzero() == 0
    assert grad.to_dense()[[1, 3]].count_nonzero() == 8
