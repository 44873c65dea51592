"""Dense float64 versions of the SAE losses, written plainly, and how a dictionary is held against one.

An oracle takes a `World` and gives the terms of the loss; its straight-through gradients are written as surrogates: a value that is a
constant plus a function less that function's own value, so that autograd finds the gradient of the function alone.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from saelab.testing import D_IN, NUM_FEATURES, planted

DEAD = torch.tensor([0, 3, 5, 7, 11, 20, 21, 30])


@dataclass(frozen=True)
class World:
    """A dictionary's weights as leaves, and activations, in units of the inputs' scale."""

    rows: torch.Tensor
    weights: dict[str, torch.Tensor]
    free: bool

    @cached_property
    def norm(self):
        """Norms of decoder rows, where they are free."""
        return self.weights["decoder"].norm(dim=1) if self.free else torch.ones(NUM_FEATURES, dtype=torch.float64)

    @cached_property
    def decoder(self):
        return self.weights["decoder"] / self.norm[:, None]

    def pre(self, x):
        """Pre-activations of centred activations."""
        return self.norm * (x @ self.weights["encoder"].T + self.weights["b_enc"])

    @cached_property
    def x(self):
        return self.rows - self.weights["b_dec"]

    def auxk(self, error, k_aux, weight=1 / 32):
        """The residual explained by the dead features that come closest to being active."""
        residual, pre = error.detach(), self.pre(self.x.detach())
        masked = torch.full_like(pre, -torch.inf).index_copy(1, DEAD, pre[:, DEAD])
        written = (pre.relu() * largest(masked, k_aux)) @ self.decoder
        return weight * (written - residual).square().mean() / (residual - residual.mean(0)).square().mean()


def largest(values, k):
    """1 at the k largest of each row, else 0."""
    return torch.zeros_like(values).scatter(1, values.topk(k).indices, 1.0)


def constant_but(constant, function):
    """The value of `constant` with the gradient of `function`."""
    return constant.detach() + function - function.detach()


def made(kind, **settings):
    """A dictionary in float64 with weights that are not at their start: encoder and decoder apart, biases not zero, norms unlike."""
    rows = planted(512, seed=1)[0].double()
    dictionary = kind(D_IN, kind.Config(**{"d_sae": NUM_FEATURES, **settings})).double()
    generator = torch.Generator().manual_seed(0)
    dictionary.initialise(rows, generator)
    with torch.no_grad():
        for name, parameter in dictionary.named_parameters():
            if name != "decoder":
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        if dictionary.config.decoder == "free":
            dictionary.encoder.mul_(3.0)
            dictionary.decoder.mul_(torch.rand(NUM_FEATURES, 1, generator=generator, dtype=torch.float64) + 5.0)
    return dictionary, rows


def assert_follows(dictionary, rows, oracle, progress=1.0):
    """The loss has the oracle's terms, and their sum the oracle's gradients."""
    losses = dictionary.losses(rows, DEAD, progress)
    torch.stack(list(losses.terms.values())).sum().backward()
    leaves = {name: parameter.detach().clone().requires_grad_() for name, parameter in dictionary.named_parameters()}
    terms = oracle(World(rows / dictionary.scale, leaves, dictionary.config.decoder == "free"))
    torch.stack(list(terms.values())).sum().backward()
    assert losses.terms.keys() == terms.keys()
    for name, term in terms.items():
        assert torch.allclose(losses.terms[name], term, rtol=1e-9), name
        assert float(term.detach()) != 0, f"{name} is not tried"
    for name, parameter in dictionary.named_parameters():
        expected = leaves[name].grad
        assert float(expected.abs().max()) > 0, f"the gradient of {name} is not tried"
        assert torch.allclose(parameter.grad, expected, rtol=1e-7, atol=1e-9 * float(expected.abs().max())), name


class _Term(nn.Module):
    def __init__(self, dictionary, name):
        super().__init__()
        self.dictionary, self.name = dictionary, name

    def forward(self, rows):
        return self.dictionary.losses(rows, DEAD, 1.0).terms[self.name]


def assert_finite_differences_agree(dictionary, rows, term, names):
    """The gradient of a term in some of the parameters is what finite differences say."""
    module, parameters = _Term(dictionary, term), dict(dictionary.named_parameters())

    def of(*values):
        changed = {f"dictionary.{name}": value for name, value in zip(names, values, strict=True)}
        return torch.func.functional_call(module, changed, (rows,))

    values = tuple(parameters[name].detach().clone().requires_grad_() for name in names)
    assert torch.autograd.gradcheck(of, values, eps=1e-7, atol=1e-6, rtol=1e-4, fast_mode=True)
