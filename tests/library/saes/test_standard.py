import math

import pytest
from oracles import assert_finite_differences_agree, assert_follows, made

from saelab.saes.standard import Standard
from saelab.testing import D_IN, L0


@pytest.mark.parametrize("decoder", ["unit", "free"])
@pytest.mark.parametrize("progress", [0.02, 1.0])
def test_standard_follows_a_dense_float64_version(decoder, progress):
    def oracle(world):
        z = world.pre(world.x).relu()
        weight = 0.3 * min(1.0, progress / 0.05)
        penalty = weight * z.sum(1).mean() / math.sqrt(D_IN)
        return {"reconstruction": (world.x - z @ world.decoder).square().mean(), "sparsity": penalty}

    assert_follows(*made(Standard, l1=0.3, decoder=decoder), oracle, progress)


@pytest.mark.parametrize("term", ["reconstruction", "sparsity"])
@pytest.mark.parametrize("decoder", ["unit", "free"])
def test_standard_gradients_are_those_of_finite_differences(term, decoder):
    names = ("encoder", "decoder", "b_enc", "b_dec")
    assert_finite_differences_agree(*made(Standard, l1=0.3, decoder=decoder), term, names)


def test_the_penalty_counts_the_norms_of_a_free_decoder():
    """Longer decoder rows and as much shorter activations say the same and cost the same."""
    sae, rows = made(Standard, l1=0.3, decoder="free")
    before = sae.losses(rows, rows.new_zeros(0), 1.0).terms
    sae.decoder.data.mul_(7.0)
    sae.encoder.data.div_(7.0)
    sae.b_enc.data.div_(7.0)
    after = sae.losses(rows, rows.new_zeros(0), 1.0).terms
    assert {name: float(term.detach()) for name, term in after.items()} == pytest.approx(
        {name: float(term.detach()) for name, term in before.items()}
    )


def test_a_larger_l1_makes_codes_sparser(learned):
    few, many = (learned(Standard, l1=l1, target_l0=L0)[0] for l1 in (0.4, 0.1))
    assert few < 0.7 * many
