"""The few ways in which ranks exchange tensors here, beside those of torch.distributed."""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.distributed import ProcessGroup

_ALL_GATHER: Any = getattr(dist, "all_gather_single", None) or getattr(dist, "all_gather_into_tensor")  # noqa: B009 - until PyTorch 2.13


def gathered(x: Float[Tensor, "row *width"] | Int[Tensor, "row *width"], group: ProcessGroup | None) -> Tensor:
    """The rows of all ranks, in their order. Each gives as many."""
    rows = x.new_empty(dist.get_world_size(group) * len(x), *x.shape[1:])
    _ALL_GATHER(rows, x.contiguous(), group=group)
    return rows


def gather_in_place(tensor: Float[Tensor, "row *width"], own: slice, group: ProcessGroup) -> None:
    """Each rank writes its own rows of a tensor, an equal part in the order of the ranks, into that of all others."""
    _ALL_GATHER(tensor, tensor[own], group=group)


def summed(x: Float[Tensor, "*shape"], group: ProcessGroup, by: int = 1) -> Float[Tensor, "*shape"]:
    """The sum over the ranks, divided by a number. The gradient of the result is that of each rank's part, whatever the number."""
    return _Sum.apply(x, group, by)  # pyright: ignore[reportReturnType]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, group: ProcessGroup, by: int) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total / by if by > 1 else total

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad, None, None
