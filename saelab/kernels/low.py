"""bfloat16 copies of float32 tensors, each made once: the operands of a GPU's fast products, beside the precise originals."""

import torch
from jaxtyping import BFloat16, Float
from torch import Tensor


def low(tensor: Float[Tensor, "*shape"]) -> BFloat16[Tensor, "*shape"]:
    """The bfloat16 copy of a tensor; made again, in its place, when the tensor has changed since.

    A kernel that changes a tensor behind PyTorch's back writes the copy too.
    """
    known = getattr(tensor, "low", None)
    if known is None:
        known = tensor._version, tensor.detach().to(torch.bfloat16).contiguous()  # noqa: SLF001 - PyTorch counts changes in place there
    elif known[0] != tensor._version:  # noqa: SLF001
        known = tensor._version, known[1].copy_(tensor.detach())  # noqa: SLF001
    setattr(tensor, "low", known)  # noqa: B010 - no field of a tensor
    return known[1]
