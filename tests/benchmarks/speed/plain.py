"""TopK steps that we wrote: plain PyTorch as a user would, and the step that OpenAI published, from its paper.

Neither counts dead features, logs or revives anything.
"""

from collections.abc import Iterator

import torch
from made import Made, autocast
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional
from workload import Shape


class Plain(nn.Module):
    """Linear, top-k, scatter, dense decoder: z = TopK(relu((x - b_dec) Wᵀ + b)), x̂ = z D + b_dec."""

    def __init__(self, shape: Shape, mean: Tensor) -> None:
        super().__init__()
        rows = torch.randn(shape.d_sae, shape.d_in, device=mean.device)
        self.decoder = nn.Parameter(functional.normalize(rows, dim=1))
        self.encoder = nn.Parameter(self.decoder.detach().clone())
        self.b_enc = nn.Parameter(mean.new_zeros(shape.d_sae))
        self.b_dec = nn.Parameter(mean.clone())
        self.k = shape.k

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values and indices of the k largest, and zeros in the shape of all."""
        pre = functional.linear(x - self.b_dec, self.encoder, self.b_enc)
        values, indices = pre.topk(self.k, dim=-1, sorted=False)
        return values.relu(), indices, torch.zeros_like(pre)

    def forward(self, x: Tensor) -> Tensor:
        """The mean squared error."""
        values, indices, zeros = self.encode(x)
        written = zeros.scatter(-1, indices, values) @ self.decoder + self.b_dec
        return (written - x).square().mean()


def make_plain(shape: Shape, sample: Tensor, precision: str, compiled: bool = False) -> Made:
    """The step with fused Adam."""
    model = Plain(shape, sample.mean(0))
    loss = torch.compile(model) if compiled else model
    adam = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)

    def fit(batches: Iterator[Tensor]) -> None:
        for x in batches:
            adam.zero_grad()
            with autocast(x.device, precision):
                error = loss(x)
            error.backward()
            adam.step()

    return Made(fit, _encoder(model, precision))


def _encoder(model: Plain, precision: str):
    @torch.no_grad()
    def encode(x: Tensor) -> Tensor:
        with autocast(x.device, precision):
            pre = functional.linear(x - model.b_dec, model.encoder, model.b_enc)
            return pre.topk(model.k, dim=-1, sorted=False).values.relu()

    return encode


class _TopKEncoder(torch.autograd.Function):
    """The k largest pre-activations; the gradients of weights and bias are sums over the rows that chose a feature.

    That of the input reaches b_dec alone: the bias's gradient times the weights.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, b_dec: Tensor, weight: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
        values, indices = functional.linear(x - b_dec, weight, bias).topk(k, dim=-1, sorted=False)
        ctx.save_for_backward(x, b_dec, weight, indices)
        ctx.mark_non_differentiable(indices)  # type: ignore[attr-defined]
        return values.float(), indices

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor, _: Tensor) -> tuple[None, Tensor, Tensor, Tensor, None]:
        x, b_dec, weight, indices = ctx.saved_tensors  # type: ignore[attr-defined]
        by_feature = _transposed(grad, indices, len(weight))
        bias = torch.zeros(len(weight), device=x.device).index_add_(0, indices.flatten(), grad.flatten())
        return None, -(bias @ weight), by_feature @ (x - b_dec), bias, None


class _Decoder(torch.autograd.Function):
    """Sums of k decoder rows by their values."""

    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor, indices: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(values, indices, weight)
        return functional.embedding_bag(indices, weight, per_sample_weights=values, mode="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, Tensor]:
        values, indices, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        parts = [(rows[:, None] * weight[chosen]).sum(-1) for rows, chosen in zip(grad.split(256), indices.split(256), strict=True)]
        return torch.cat(parts), None, _transposed(values, indices, len(weight)) @ grad


def _transposed(values: Tensor, indices: Tensor, d_sae: int) -> Tensor:
    """The sparse matrix [d_sae row] of values at their indices."""
    features, order = indices.flatten().sort(stable=True)
    starts = torch.searchsorted(features, torch.arange(d_sae + 1, device=indices.device))
    return torch.sparse_csr_tensor(starts, order // indices.shape[1], values.flatten()[order], (d_sae, len(indices)))


def make_openai(shape: Shape, sample: Tensor) -> Made:
    """Gao et al. 2024 without their Triton kernels and without AuxK: error over the variance, decoder rows of norm 1, fused Adam."""
    model = Plain(shape, sample.mean(0))
    adam = torch.optim.Adam(model.parameters(), lr=1e-4, eps=6.25e-10, fused=True)

    def loss(x: Tensor) -> Tensor:
        with autocast(x.device, "bf16"):
            values, indices = _TopKEncoder.apply(x, model.b_dec, model.encoder, model.b_enc, shape.k)
        written = _Decoder.apply(values.relu(), indices, model.decoder) + model.b_dec
        return (written - x).square().mean() / (x - x.mean(0)).square().mean()

    def fit(batches: Iterator[Tensor]) -> None:
        for x in batches:
            adam.zero_grad()
            loss(x).backward()
            _turn(model.decoder)
            adam.step()
            with torch.no_grad():
                model.decoder.div_(model.decoder.norm(dim=1, keepdim=True))

    return Made(fit, _encoder(model, "bf16"))


@torch.no_grad()
def _turn(decoder: nn.Parameter) -> None:
    """Takes the part along the rows out of their gradient."""
    assert decoder.grad is not None
    decoder.grad -= (decoder.grad * decoder).sum(1, keepdim=True) * decoder
