import pytest
import torch
from oracles import DEAD, assert_finite_differences_agree, assert_follows, made

from saelab.errors import Invalid
from saelab.saes.matryoshka import Matryoshka
from saelab.testing import D_IN, L0, NUM_FEATURES


def test_matryoshka_follows_a_dense_float64_version():
    def oracle(world):
        pre = world.pre(world.x)
        keep = torch.zeros_like(pre).flatten().scatter(0, pre.flatten().topk(L0 * len(pre)).indices, 1.0).view_as(pre)
        errors = [world.x - (pre.relu() * keep)[:, :size] @ world.decoder[:size] for size in (12, 24, NUM_FEATURES)]
        mean = torch.stack([error.square().mean() for error in errors]).mean()
        return {"reconstruction": mean, "auxk": world.auxk(errors[-1], k_aux=6, weight=1 / 4)}

    assert_follows(*made(Matryoshka, k=L0, k_aux=6, groups=(0.25, 0.25, 0.5)), oracle)


def test_matryoshka_gradients_are_those_of_finite_differences():
    assert_finite_differences_agree(*made(Matryoshka, k=L0), "reconstruction", ("encoder", "decoder", "b_enc", "b_dec"))


def test_prefixes_are_averaged_and_not_weighted_down_once_more():
    sae, rows = made(Matryoshka, k=L0)
    assert len(sae.prefixes) == 5
    with torch.no_grad():
        sae.b_enc.fill_(-1e6)  # nothing is active, so that every prefix leaves the same
    left = (rows / sae.scale - sae.b_dec).square().mean()
    assert torch.allclose(sae.losses(rows, DEAD, 1.0).terms["reconstruction"], left)


@pytest.mark.parametrize("groups", [(), (0.5, 0.4), (1.5, -0.5)])
def test_groups_that_are_no_shares_are_refused(groups):
    with pytest.raises(Invalid, match="they are shares of the features, each above 0, that sum to 1"):
        Matryoshka(D_IN, Matryoshka.Config(d_sae=NUM_FEATURES, k=L0, groups=groups))
