import torch
from oracles import assert_finite_differences_agree, assert_follows, made

from saelab.saes.batchtopk import BatchTopK
from saelab.testing import L0


def test_batchtopk_follows_a_dense_float64_version():
    def oracle(world):
        pre = world.pre(world.x)
        keep = torch.zeros_like(pre).flatten().scatter(0, pre.flatten().topk(L0 * len(pre)).indices, 1.0).view_as(pre)
        error = world.x - (pre.relu() * keep) @ world.decoder
        return {"reconstruction": error.square().mean(), "auxk": world.auxk(error, k_aux=6, weight=1 / 4)}

    assert_follows(*made(BatchTopK, k=L0, k_aux=6), oracle)


def test_batchtopk_gradients_are_those_of_finite_differences():
    assert_finite_differences_agree(*made(BatchTopK, k=L0), "reconstruction", ("encoder", "decoder", "b_enc", "b_dec"))


def test_the_threshold_follows_the_smallest_activation_that_is_kept():
    sae, rows = made(BatchTopK, k=L0)
    before = sae.threshold.clone()
    encoder, bias, _ = sae.weights()
    smallest = (sae.centred(rows) @ encoder.T + bias).flatten().topk(L0 * len(rows)).values.min() / sae.scale
    sae.losses(rows, torch.arange(0), 1.0)
    sae.after_step()
    assert torch.allclose(sae.threshold, before + 0.05 * (smallest - before))
    sae.threshold.copy_(smallest)
    assert abs(float(sae.encode(rows).l0().mean()) - L0) < 0.01
