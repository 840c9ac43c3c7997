"""Gradients of large embedding tables as rows, for the exchange between processes.

By default the gradient of a table is as large as the table, most of it zeros. That of a marked table is a
sparse tensor: the distinct rows that a batch looks up, and the gradient of each. `train/training/ranks.py`
marks tables, for it exchanges such rows; Adam itself needs dense gradients.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_MARK = "has_row_gradients"


def mark(table: Tensor, sparse: bool = True) -> None:
    """Give a table sparse gradients in this process, or dense ones again."""
    setattr(table, _MARK, sparse)


def is_marked(table: Tensor) -> bool:
    """Whether the table has sparse gradients."""
    found: bool = getattr(table, _MARK, False)
    return found


def touched(table: Tensor, rows: Tensor, padding: int | None = None) -> tuple[Tensor, Tensor]:
    """A table to look rows up in, and the rows: of a marked table the part that is looked up.

    Args:
        table: (V, H).
        rows: integers of any shape.
        padding: a row that gets no gradient.

    Returns:
        (U, H), the distinct rows, and integers of the shape of `rows` below U; both unchanged if the table is
        not marked.
    """
    if not is_marked(table) or not torch.is_grad_enabled():
        return table, rows
    occurs = torch.zeros(len(table), dtype=torch.bool, device=rows.device)
    occurs[rows.flatten().long()] = True
    distinct = occurs.nonzero()[:, 0]  # (U,), ascending
    place = torch.zeros(len(table), dtype=rows.dtype, device=rows.device)
    place[distinct] = torch.arange(len(distinct), dtype=rows.dtype, device=rows.device)
    return F.embedding(distinct, table, padding, sparse=True), place[rows.long()]
