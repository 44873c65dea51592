import math

import pytest
import torch
from oracles import DEAD, assert_finite_differences_agree, assert_follows, made
from torch.utils._python_dispatch import TorchDispatchMode

from saelab.saes.gated import Gated
from saelab.testing import D_IN


@pytest.mark.parametrize("decoder", ["unit", "free"])
def test_gated_follows_a_dense_float64_version(decoder):
    def oracle(world):
        weights = world.weights
        gate = world.pre(world.x)
        magnitude = weights["r_mag"].exp() * world.norm * (world.x @ weights["encoder"].T) + weights["b_mag"]
        z = magnitude.relu() * (gate > 0)
        frozen = (world.rows - weights["b_dec"].detach()) - gate.relu() @ world.decoder.detach()
        return {
            "reconstruction": (world.x - z @ world.decoder).square().mean(),
            "sparsity": 0.3 * gate.relu().sum(1).mean() / math.sqrt(D_IN),
            "gate": frozen.square().mean(),
        }

    assert_follows(*made(Gated, l1=0.3, decoder=decoder), oracle)


@pytest.mark.parametrize(
    ("term", "names"),
    [
        ("reconstruction", ("encoder", "decoder", "b_dec", "r_mag", "b_mag")),
        ("sparsity", ("encoder", "b_enc", "b_dec")),
        ("gate", ("encoder", "b_enc")),
    ],
)
def test_gated_gradients_are_those_of_finite_differences(term, names):
    """The gate's bias acts on the reconstruction by a step alone, and the last term holds the decoder still: both are left out."""
    assert_finite_differences_agree(*made(Gated, l1=0.3), term, names)


@pytest.mark.parametrize("decoder", ["unit", "free"])
def test_the_gates_own_error_teaches_the_encoder_and_never_the_decoder(decoder):
    sae, rows = made(Gated, decoder=decoder)
    sae.losses(rows, DEAD, 1.0).terms["gate"].backward()
    assert torch.all(sae.encoder.grad.norm(dim=1) > 0)
    assert torch.all(sae.b_enc.grad != 0)
    assert sae.b_mag.grad is None
    if decoder == "unit":
        assert sae.decoder.grad is None
    else:  # its norms belong to the gate; its directions do not move
        turned = sae.decoder.grad - (sae.decoder.grad * sae.directions).sum(1, keepdim=True) * sae.directions
        assert torch.allclose(turned, torch.zeros_like(turned), atol=1e-12)


def test_the_encoder_multiplies_once():
    class Products(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm)
            return func(*args, **(kwargs or {}))

    sae, rows = made(Gated)
    with Products() as products:
        sae.losses(rows, DEAD, 1.0)
    assert products.count == 3  # the encoder, and the decoder from the codes and from the gates


def test_gate_and_magnitude_are_those_of_the_saved_tensors():
    sae, rows = made(Gated)
    saved = {name: tensor.detach() for name, tensor in sae.tensors().items()}
    assert saved.keys() == {"W_enc", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag"}
    product = (rows - saved["b_dec"]) @ saved["W_enc"]
    z = (product + saved["b_gate"] > 0) * (product * saved["r_mag"].exp() + saved["b_mag"]).relu()
    assert torch.allclose(sae.encode(rows).dense(), z)
