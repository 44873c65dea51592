"""Adam as a dictionary needs it: all gradients clipped together, and rows that stay at norm 1.

    g ← g - (g · w) w   for each row w of norm 1: its length must not change
    g ← g · min(1, clip / |g|)   over all weights together
    Adam's step (Kingma, Ba 2014, https://arxiv.org/abs/1412.6980), then w ← w / |w|

On a GPU, weights collect the terms of their gradients (`saelab.kernels.terms`), and one kernel does all of this for them without ever
writing a gradient: of a row it needs the sum of its terms, its part along w, and the factor of clipping. Norms are computed only where the
triangle inequality does not show that nothing is to be clipped. Every row is stepped, also one whose features were not active: the same as
PyTorch's Adam.

Where several processes have the same terms, each steps a part of the rows (Rajbhandari et al. 2020, "ZeRO", stage 1,
https://arxiv.org/abs/1910.02054) and gives the others the bfloat16 copies of these, which are all that the kernels read. The float32 rows
and moments of others are old until `whole` asks for them. Where a weight has a dense gradient too, it was read in float32, and every
process steps all of it.
"""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from saelab.kernels.low import low, renew_low
from saelab.kernels.peers import NO_PEERS, Peers
from saelab.kernels.sparse import HAS_TRITON
from saelab.kernels.streams import aside, rejoin
from saelab.kernels.terms import collect, taken

if TYPE_CHECKING:
    from saelab.kernels.gpu.update import Gradient

_TINY = 1e-6
"""Added to the norm before the division, as PyTorch does."""


class Adam(torch.optim.Adam):
    """Adam over all weights.

    Arguments:
    - `weights`: what is trained.
    - `lr`, `betas`: Adam's.
    - `clip`: largest norm of all gradients together.
    - `unit`: those of the weights whose rows stay at norm 1.
    - `peers`: the processes that train the same weights.
    - `elsewhere`: those of the weights that count in the norm of all gradients in another process, which holds them too.
    """

    def __init__(
        self,
        weights: Iterable[nn.Parameter],
        *,
        lr: float,
        betas: tuple[float, float],
        clip: float,
        unit: Sequence[nn.Parameter] = (),
        peers: Peers = NO_PEERS,
        elsewhere: Sequence[nn.Parameter] = (),
    ) -> None:
        weights = list(weights)
        self.clip, self.unit, self.peers, self.elsewhere = clip, unit, peers, set(elsewhere)
        self._divided: set[nn.Parameter] = set()
        self._lr = lr
        device = weights[0].device
        on_gpu = device.type == "cuda"
        rate = torch.tensor(lr, device=device) if on_gpu else lr  # a recorded step reads it where it lies
        super().__init__(weights, lr=rate, betas=betas, fused=True, capturable=on_gpu)
        if on_gpu and HAS_TRITON:
            self._betas = torch.tensor(betas, dtype=torch.float64, device=device)
            for weight in weights:
                if weight.ndim == 2:
                    collect(weight, peers)

    def set_lr(self, lr: float) -> None:
        """Sets the learning rate; where it is a tensor, that a recorded step reads, in its place."""
        group = self.param_groups[0]
        if isinstance(group["lr"], Tensor) and lr != self._lr:
            group["lr"].fill_(lr)
        elif not isinstance(group["lr"], Tensor):
            group["lr"] = lr
        self._lr = lr

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - there is no closure
        """Projects, clips, steps and brings rows back to norm 1; gradients are left to `zero_grad`."""
        weights: list[nn.Parameter] = self.param_groups[0]["params"]
        summed = self._summed(weights)
        dense = [weight for weight in weights if weight.grad is not None and weight not in summed]
        turned = [weight for weight in self.unit if weight in summed or weight.grad is not None]
        for weight in turned:
            if weight.grad is not None and weight not in summed:
                weight.grad.addcmul_((weight.grad * weight).sum(1, keepdim=True), weight, value=-1.0)
        norm = self._norm(dense, list(summed.values()))
        clip_grads_with_norm_(dense, self.clip, norm)
        with aside(weights[0].device, "sums"):
            super().step()
        if summed:
            self._step(summed, norm)
        rejoin(weights[0].device, "sums")
        for weight in turned:
            if weight not in summed:
                weight.div_(weight.norm(dim=1, keepdim=True))
        for weight in dense:
            renew_low(weight)

    def _summed(self, weights: list[nn.Parameter]) -> dict[nn.Parameter, "Gradient"]:
        """The gradients that came as terms, of all weights at the same time; PyTorch's Adam is to leave those weights alone."""
        summed: dict[nn.Parameter, "Gradient"] = {}
        for weight in weights:
            if terms := taken(weight):
                from saelab.kernels.gpu.update import Gradient

                dense, weight.grad = weight.grad, None  # a part that did not come as a term
                with aside(weight.device, "sums") if summed else nullcontext():
                    own = self.peers.own(len(weight)) if dense is None else None
                    summed[weight] = Gradient(weight, terms, any(weight is one for one in self.unit), dense, own)
        rejoin(weights[0].device, "sums")
        return summed

    def _norm(self, dense: list[nn.Parameter], summed: list["Gradient"]) -> Tensor:
        """The norm of all gradients; where a bound shows that it is under the limit, the bound: the factor of clipping is 1 either way."""
        others = [weight.grad for weight in dense if weight.grad is not None and weight not in self.elsewhere]
        if not summed:
            return self.peers.norm(get_total_norm(others))
        bounds = [gradient.reach for gradient in summed]
        parts = torch.cat([*bounds, *(grad if grad.ndim == 1 else torch.linalg.vector_norm(grad)[None] for grad in others)])
        bound = self.peers.norm(parts)
        *norms, rest = parts.split([*map(len, bounds), len(parts) - sum(map(len, bounds))])
        for gradient, out in zip(summed, norms, strict=True):
            gradient.norms(bound, self.clip - _TINY, out)
        own = [out[gradient.own] for gradient, out in zip(summed, norms, strict=True) if gradient.divided]
        if not own:
            return self.peers.norm(parts)
        alike = [out for gradient, out in zip(summed, norms, strict=True) if not gradient.divided]
        return self.peers.norm(torch.cat([*alike, rest]) if alike else rest, torch.cat(own))

    def _step(self, summed: dict[nn.Parameter, "Gradient"], norm: Tensor) -> None:
        group = self.param_groups[0]
        for weight in summed:
            if not self.state[weight]:
                zeros = torch.zeros((), device=weight.device), torch.zeros_like(weight), torch.zeros_like(weight)
                self.state[weight] = dict(zip(("step", "exp_avg", "exp_avg_sq"), zeros, strict=True))
        states = [self.state[weight] for weight in summed]
        torch._foreach_add_([state["step"] for state in states], 1)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
        corrections = 1 - self._betas ** states[0]["step"]
        for (weight, gradient), state in zip(summed.items(), states, strict=True):
            moments = state["exp_avg"], state["exp_avg_sq"]
            gradient.step(weight, low(weight), moments, group["lr"], corrections, norm, self.clip, group["betas"], group["eps"])
            if gradient.divided:
                self._divided.add(weight)
                with aside(weight.device, "copies"):  # while the next weight is stepped
                    self.peers.share(low(weight))
        rejoin(self._betas.device, "copies")

    def whole(self) -> None:
        """Makes the weights and moments whole of which processes step a part each; they all have to ask for it."""
        for weight in (weight for weight in self.param_groups[0]["params"] if weight in self._divided):
            for tensor in (weight.detach(), self.state[weight]["exp_avg"], self.state[weight]["exp_avg_sq"]):
                self.peers.share(tensor)
