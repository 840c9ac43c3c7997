"""A tower in torch whose tables are rounded as those of a variant's file.

A rounding of the weights is a model of its own: what it costs is told by quality. Whether ONNX Runtime
computes what torch does is another question, and with equal tables it has the usual answer.
"""

from typing import get_args

import torch
from torch import Tensor, nn

from export.graph import frozen
from export.precision.tables import Stored, is_table, rounded_table
from protos.bundle import Variant
from train.encoders import Category, HashedText
from train.history import Attention, Ids, Pooled
from train.towers import Tower

VARIANTS: tuple[Variant, ...] = get_args(Variant)


def stored_as(variant: Variant) -> Stored | None:
    """What the tables of a variant are stored as; None for float32."""
    if variant == "fp32":
        return None
    return "fp16" if variant == "fp16_tables" else "int8"


def rounded(tower: Tower, variant: Variant) -> Tower:
    """A copy for inference with the tables of a variant; dense layers stay as they are.

    A table that several encoders share stays shared.
    """
    copied = frozen(tower)
    stored = stored_as(variant)
    if stored is not None:
        for table in _tables(copied):
            table.copy_(torch.from_numpy(rounded_table(table.numpy(), stored)))
    return copied


def _tables(tower: Tower) -> list[Tensor]:
    """The parameters whose rows are looked up, each once."""
    found: dict[int, Tensor] = {}
    for part in tower.modules():
        table = _table(part)
        if table is not None and is_table(4 * table.numel(), table.shape[1]):
            found[id(table)] = table
    return list(found.values())


def _table(part: nn.Module) -> Tensor | None:
    if isinstance(part, HashedText | Ids | Pooled | Attention):
        return part.table
    return part.embedding.weight if isinstance(part, Category) else None
