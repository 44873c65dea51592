"""bfloat16 copies of float32 tensors, each made once: the operands of a GPU's fast products, beside the precise originals."""

import torch
from jaxtyping import BFloat16, Float
from torch import Tensor


def keep_low(tensor: Tensor, copy: Tensor) -> None:
    """Says that this is the bfloat16 copy of a tensor."""
    setattr(tensor, "low", (tensor._version, copy))  # noqa: B010 - no field of a tensor; PyTorch counts changes in place there


def low(tensor: Float[Tensor, "*shape"]) -> BFloat16[Tensor, "*shape"]:
    """The bfloat16 copy of a tensor; made again, in its place, when the tensor has changed since.

    A kernel that changes a tensor behind PyTorch's back writes the copy too.
    """
    if tensor.dtype == torch.bfloat16:
        return tensor
    known = getattr(tensor, "low", None)
    if known is None:
        keep_low(tensor, tensor.detach().to(torch.bfloat16).contiguous())
    elif known[0] != tensor._version:
        keep_low(tensor, known[1].copy_(tensor.detach()))
    return tensor.low[1]  # pyright: ignore[reportAttributeAccessIssue]


def renew_low(tensor: Float[Tensor, "*shape"]) -> None:
    """Makes the bfloat16 copy again, if there is one, of a tensor that has changed without a count: PyTorch's fused optimisers do that."""
    known = getattr(tensor, "low", None)
    if known is not None:
        keep_low(tensor, known[1].copy_(tensor.detach()))


def keep_row_norms(tensor: Tensor, norms: Float[Tensor, " row"]) -> None:
    """Says that these are the norms of a tensor's rows; it must not change."""
    setattr(tensor, "row_norms", norms)  # noqa: B010 - no field of a tensor


def row_norms(tensor: Float[Tensor, "row width"]) -> Float[Tensor, " row"]:
    """The norms of the rows, in float32."""
    known = getattr(tensor, "row_norms", None)
    return torch.linalg.vector_norm(tensor, dim=1, dtype=torch.float32) if known is None else known


def column_sums(tensor: BFloat16[Tensor, "row width"]) -> Float[Tensor, " width"]:
    """The sums over rows, as a product: several times as fast as a sum over the first dimension. Rounded to bfloat16."""
    return (tensor.new_ones(1, len(tensor)) @ tensor)[0].float()
