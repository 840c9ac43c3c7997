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


class SharedOptimiser:
    """An optimiser whose parameters and state are in shared memory; each rank steps on a part of each.

    A parameter is divided along its first dimension. Adam and AdamW compute each number by itself, so the
    parts together are the step of one process.

    Args:
        optimiser: over all parameters, with a state for each.
        tables: the parameters whose gradients are exchanged as rows.
    """

    def __init__(
        self, optimiser: torch.optim.Optimizer, tables: Sequence[Tensor], rank: int, count: int
    ) -> None:
        marked = {id(table) for table in tables}
        self._whole = optimiser
        self._rank = rank
        self._count = count
        self._parts: list[tuple[Tensor, Tensor]] = []  # a parameter, and this rank's part of it
        self._rows: dict[int, _RowExchange] = {}  # of the tables, by id
        groups: list[dict[str, Any]] = []
        for group in optimiser.param_groups:
            parts = []
            for parameter in group["params"]:
                part = _part(parameter.detach(), rank, count)
                self._parts.append((parameter, part))
                if id(parameter) in marked:
                    self._rows[id(parameter)] = _RowExchange(part, len(parameter), rank, count)
                parts.append(part)
            groups.append({**group, "params": parts})
        self._optimiser = type(optimiser)(groups)  # type: ignore[call-arg]
        for parameter, part in self._parts:
            state = optimiser.state[parameter]
            moments = {name: _part(each, rank, count) for name, each in state.items() if name != "step"}
            # Rank 0 has a part of every parameter, so its counters are those of the whole.
            step = state["step"] if rank == 0 else state["step"].clone()
            self._optimiser.state[part] = {"step": step, **moments}

    def step(self, loss: Tensor) -> float:
        """Sum the gradients over all ranks, and step on this rank's part; returns the sum of the losses.

        A parameter without a gradient on any rank is not stepped on, as in one process.
        """
        parameters = [parameter for parameter, _ in self._parts]
        flat = _flattened([each for each in parameters if id(each) not in self._rows], parameters, loss)
        dist.all_reduce(flat)
        has_gradient = flat[-len(parameters) - 1 : -1].tolist()
        at = 0
        for (parameter, part), has in zip(self._parts, has_gradient, strict=True):
            exchange = self._rows.get(id(parameter))
            if exchange is not None:
                part.grad = exchange.gradient(parameter.grad) if has else None
                continue
            whole = flat[at : at + parameter.numel()].view(parameter.shape)
            part.grad = _part(whole, self._rank, self._count) if has and part.numel() else None
            at += parameter.numel()
        for whole_group, group in zip(self._whole.param_groups, self._optimiser.param_groups, strict=True):
            group["lr"] = whole_group["lr"]
        self._optimiser.step()
        return float(flat[-1])


def _flattened(dense: Sequence[Tensor], parameters: Sequence[Tensor], loss: Tensor) -> Tensor:
    """Gradients of the dense parameters; of all parameters, whether there is one; and the loss."""
    gradients = [
        each.new_zeros(each.numel()) if each.grad is None else each.grad.reshape(-1) for each in dense
    ]
    given = torch.tensor([each.grad is not None for each in parameters], dtype=torch.float32)
    return torch.cat([*gradients, given, loss.reshape(1)])


class _RowExchange:
    """Gives each rank the rows of a table's gradient that belong to its part.

    Args:
        part: this rank's part of the table.
        rows: of the whole table.
    """

    def __init__(self, part: Tensor, rows: int, rank: int, count: int) -> None:
        self._part = part
        self._begin = _bounds(rows, count)[rank]
        self._bounds = torch.tensor(_bounds(rows, count))
        self._gradient = torch.zeros_like(part)
        self._filled = torch.empty(0, dtype=torch.int64)

    def gradient(self, grad: Tensor | None) -> Tensor:
        """The gradient of this rank's part, the sum over all ranks.

        Args:
            grad: of the whole table, sparse or dense; None counts as zeros.
        """
        index, values = self._own_rows(grad)
        sent = torch.searchsorted(index, self._bounds).diff()  # rows for each rank
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent)
        splits = received.tolist(), sent.tolist()
        rows = index.new_empty(sum(splits[0]))
        dist.all_to_all_single(rows, index, *splits)
        found = values.new_empty(len(rows), values.shape[1])
        dist.all_to_all_single(found, values.contiguous(), *splits)
        self._gradient[self._filled] = 0
        self._filled = rows - self._begin
        self._gradient.index_add_(0, self._filled, found)
        return self._gradient

    def _own_rows(self, grad: Tensor | None) -> tuple[Tensor, Tensor]:
        """This process's rows of the gradient, ascending, and their values."""
        if grad is None:
            return torch.empty(0, dtype=torch.int64), self._part.new_empty(0, self._part.shape[1])
        if not grad.is_sparse:
            index = grad.any(dim=1).nonzero()[:, 0]
            return index, grad[index]
        rows = grad.coalesce()
        return rows.indices()[0], rows.values()


def _bounds(rows: int, count: int) -> list[int]:
    """Where the parts of some rows begin, and the end; part 0 is the largest."""
    return [-(-rows * rank // count) for rank in range(count + 1)]


def _part(tensor: Tensor, rank: int, count: int) -> Tensor:
    """A rank's part of a tensor along its first dimension, a view; a scalar belongs to rank 0."""
    if not tensor.ndim:
        return tensor if rank == 0 else tensor.reshape(1)[:0]
    bounds = _bounds(len(tensor), count)
    return tensor[bounds[rank] : bounds[rank + 1]]
