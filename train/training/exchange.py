"""What the ranks of a run exchange in a step: vectors with gradients, and the gradients of parameters."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def all_gather_rows(own: Tensor, total: int, count: int) -> Tensor:
    """Vectors of all ranks, with gradients: the gradient of a rank's own ones is the sum over all ranks.

    Args:
        own: (n, D), every `count`-th row of the result, from the number of this rank on.
        total: N, rows of the result.

    Returns:
        (N, D)
    """
    gathered: Tensor = _AllGather.apply(own, total, count)  # type: ignore[no-untyped-call]
    return gathered


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, total: int, count: int) -> Tensor:
        ctx.count, ctx.rows = count, len(own)
        padded = _padded(own, -(-total // count))
        parts = [torch.empty_like(padded) for _ in range(count)]
        dist.all_gather(parts, padded)
        return torch.stack(parts, 1).flatten(0, 1)[:total]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        width = -(-len(grad) // ctx.count)
        padded = _padded(grad, width * ctx.count)
        by_rank = padded.view(width, ctx.count, -1).transpose(0, 1).contiguous()  # (count, width, D)
        received = torch.empty_like(by_rank)
        dist.all_to_all_single(received, by_rank)
        return received.sum(dim=0)[: ctx.rows], None, None


def _padded(rows: Tensor, count: int) -> Tensor:
    if len(rows) == count:
        return rows.contiguous()
    padded = rows.new_zeros(count, rows.shape[1])
    padded[: len(rows)] = rows
    return padded


class GradientSum:
    """Sums the gradients of parameters over all ranks.

    The sums have the same bits on all ranks, so the parameters stay equal.

    Args:
        parameters: all that the optimiser steps on.
        tables: those of them whose gradients are sparse (`encoders.has_row_gradients`).
    """

    def __init__(self, parameters: Sequence[Tensor], tables: Sequence[Tensor]) -> None:
        self._parameters = parameters
        self._tables = {id(table) for table in tables}

    def add_others(self, loss: Tensor) -> float:
        """Replace each gradient by the sum over all ranks; returns the sum of the losses.

        A parameter without a gradient on any rank has none afterwards, as in one process.
        """
        parameters = self._parameters
        flat = _flattened([each for each in parameters if id(each) not in self._tables], parameters, loss)
        dist.all_reduce(flat)
        has_gradient = flat[-len(parameters) - 1 : -1].tolist()
        at = 0
        for parameter, has in zip(parameters, has_gradient, strict=True):
            if id(parameter) in self._tables:
                parameter.grad = _summed_rows(parameter.grad, parameter) if has else None
                continue
            whole = flat[at : at + parameter.numel()].view(parameter.shape)
            parameter.grad = whole if has else None
            at += parameter.numel()
        return float(flat[-1])


def _flattened(dense: Sequence[Tensor], parameters: Sequence[Tensor], loss: Tensor) -> Tensor:
    """Gradients of the dense parameters; of all parameters, whether there is one; and the loss."""
    gradients = [
        each.new_zeros(each.numel()) if each.grad is None else each.grad.reshape(-1) for each in dense
    ]
    given = torch.tensor([each.grad is not None for each in parameters], dtype=torch.float32)
    return torch.cat([*gradients, given, loss.reshape(1)])


def _summed_rows(grad: Tensor | None, table: Tensor) -> Tensor:
    """The sum of a table's gradient over all ranks, sparse, of which only rows that are not 0 are exchanged.

    Args:
        grad: of this rank, sparse or dense; None counts as zeros.
    """
    if grad is None:
        nothing = torch.empty(1, 0, dtype=torch.int64), table.new_empty(0, *table.shape[1:])
        grad = torch.sparse_coo_tensor(*nothing, table.shape)
    rows = (grad if grad.is_sparse else grad.to_sparse(1)).coalesce()
    dist.all_reduce(rows)
    return rows.coalesce()
