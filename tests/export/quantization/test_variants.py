"""Tables of encoders that export does not know are rounded, too."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from twinspire.export.quantization import round_tables
from twinspire.export.quantization.tables import rounded_table
from twinspire.protos.bundle import Variant
from twinspire.train.models.heads import CosineHead
from twinspire.train.models.towers import Tower


class Tokens(nn.Module):
    """An encoder with two tables and a dense layer, as a new kind of tower may have."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(400, 64)
        self.table = nn.Parameter(torch.randn(500, 64))
        self.dense = nn.Linear(64, 400)  # as large as a table, but no rows of it are looked up

    def forward(self, rows: Tensor) -> Tensor:
        """Rows (B, L) -> (B, 64)."""
        found: Tensor = self.tokens(rows).sum(dim=1) + self.table[rows[:, 0]]
        return found


@pytest.mark.parametrize("variant", ["int8_tables", "int8_dynamic"])  # the second is of earlier versions
def test_the_tables_of_any_encoder_are_rounded(variant: Variant) -> None:
    torch.manual_seed(0)
    encoder = Tokens()
    tower = Tower({"text": encoder}, nn.Identity(), CosineHead())
    rounded = round_tables(tower, variant).encoders["text"]
    assert isinstance(rounded, Tokens)
    pairs = ((encoder.tokens.weight, rounded.tokens.weight), (encoder.table, rounded.table))
    for before, after in pairs:
        expected = rounded_table(before.detach().numpy(), "int8")
        assert not np.array_equal(expected, before.detach().numpy())
        np.testing.assert_array_equal(after.numpy(), expected)
    np.testing.assert_array_equal(rounded.dense.weight.numpy(), encoder.dense.weight.detach().numpy())
