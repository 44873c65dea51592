import torch
from oracles import assert_finite_differences_agree, assert_follows, largest, made

from saelab.saes.abstopk import AbsTopK
from saelab.testing import L0


def test_abstopk_follows_a_dense_float64_version():
    def oracle(world):
        pre = world.pre(world.x)
        error = world.x - (pre * largest(pre.abs(), L0)) @ world.decoder
        return {"reconstruction": error.square().mean(), "auxk": world.auxk(error, k_aux=6)}

    assert_follows(*made(AbsTopK, k=L0, k_aux=6), oracle)


def test_abstopk_gradients_are_those_of_finite_differences():
    assert_finite_differences_agree(*made(AbsTopK, k=L0), "reconstruction", ("encoder", "decoder", "b_enc", "b_dec"))


def test_abstopk_codes_have_both_signs():
    sae, rows = made(AbsTopK, k=L0)
    values = sae.encode(rows).values
    assert bool((values < 0).any())
    assert bool((values > 0).any())
    assert torch.all(values != 0)
