"""What the ranks of a run exchange in a step: vectors with gradients, and the gradients of parameters."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from twinspire.train.training.split_tables import SplitTables


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


def sum_gradients(parameters: Sequence[Tensor], tables: SplitTables, loss: Tensor) -> float:
    """Replace each gradient by the sum over all ranks; returns the sum of the losses.

    The sums have the same bits on all ranks, so the parameters stay equal, but for tables that are split. A
    parameter without a gradient on any rank has none afterwards, as in one process.

    Args:
        parameters: all that the optimiser steps on.
        tables: those of them that are split.
    """
    split = [*zip(parameters, map(tables.find, parameters), strict=True)]
    given = [each.grad is not None if table is None else table.has_gradient() for each, table in split]
    dense = [each for each, table in split if table is None]
    flat = torch.cat([*map(_flattened, dense), torch.tensor(given).float(), loss.reshape(1)])
    dist.all_reduce(flat)
    at = 0
    for (parameter, table), has in zip(split, flat[-len(given) - 1 : -1].tolist(), strict=True):
        if table is not None:
            table.add_gradients(has > 0)
            continue
        whole = flat[at : at + parameter.numel()].view(parameter.shape)
        parameter.grad = whole if has else None
        at += parameter.numel()
    return float(flat[-1])


def _flattened(parameter: Tensor) -> Tensor:
    """The gradient of a parameter in one dimension, zeros if there is none."""
    grad = parameter.grad
    return parameter.new_zeros(parameter.numel()) if grad is None else grad.to_dense().reshape(-1)
