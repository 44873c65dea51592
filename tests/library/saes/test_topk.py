import pytest
import torch
from oracles import DEAD, assert_finite_differences_agree, assert_follows, largest, made

from saelab.errors import Invalid
from saelab.saes.base import Weights, auxiliary
from saelab.saes.topk import TopK
from saelab.testing import D_IN, L0, NUM_FEATURES, planted
from saelab.training import TrainConfig, Trainer


@pytest.mark.parametrize("decoder", ["unit", "free"])
@pytest.mark.parametrize("multi", [0.0, 0.125])
def test_topk_follows_a_dense_float64_version(decoder, multi):
    def oracle(world):
        pre = world.pre(world.x)
        error, wide = (world.x - (pre.relu() * largest(pre, k)) @ world.decoder for k in (L0, 4 * L0))
        terms = {"reconstruction": error.square().mean(), "multi": multi * wide.square().mean(), "auxk": world.auxk(error, k_aux=6)}
        return {name: term for name, term in terms.items() if multi or name != "multi"}

    assert_follows(*made(TopK, k=L0, k_aux=6, decoder=decoder, multi=multi), oracle)


@pytest.mark.parametrize("term", ["reconstruction", "multi"])
@pytest.mark.parametrize("decoder", ["unit", "free"])
def test_topk_gradients_are_those_of_finite_differences(term, decoder):
    names = ("encoder", "decoder", "b_enc", "b_dec")
    assert_finite_differences_agree(*made(TopK, k=L0, decoder=decoder, multi=1.0), term, names)


def test_the_wider_reconstruction_teaches_the_encoder():
    sae, rows = made(TopK, k=1, multi=1.0)
    sae.losses(rows[:1], DEAD, 1.0).terms["multi"].backward()
    assert int((sae.encoder.grad.norm(dim=1) > 0).sum()) == 4


def test_auxk_gradient_reaches_the_encoder_of_dead_features():
    sae, rows = made(TopK, k=L0)
    sae.losses(rows, torch.arange(8), 1.0).terms["auxk"].backward()
    assert torch.all(sae.encoder.grad[:8].norm(dim=1) > 0)
    assert torch.all(sae.encoder.grad[8:] == 0)
    assert torch.all(sae.decoder.grad[:8].norm(dim=1) > 0)


def test_auxk_does_not_depend_on_the_scale_of_the_activations():
    terms = []
    for unit in (1.0, 1e3):
        rows = unit * planted(512, seed=1)[0]
        sae = TopK(D_IN, TopK.Config(d_sae=NUM_FEATURES, k=L0))
        sae.initialise(rows, torch.Generator().manual_seed(0))
        terms.append(float(sae.losses(rows, torch.arange(8), 1.0).terms["auxk"].detach()))
    assert terms[0] == pytest.approx(terms[1], rel=1e-4)


def test_dead_features_come_back():
    x, _ = planted(300 * 256, seed=1)
    sae = TopK(D_IN, TopK.Config(d_sae=NUM_FEATURES, k=L0))
    trainer = Trainer(sae, TrainConfig(steps=300, batch_size=256, lr=1e-2, dead_after=1024))
    trainer.initialise(x)
    with torch.no_grad():
        sae.encoder[:16] *= 1e-3
    for batch in x.split(256):
        trainer.step(batch)
    assert trainer.row().metrics["dead"] <= 1 / NUM_FEATURES


def test_no_auxiliary_term_where_nothing_is_dead():
    sae, rows = made(TopK, k=L0)
    assert set(sae.losses(rows, torch.arange(0), 1.0).terms) == {"reconstruction"}


def test_a_free_decoder_ranks_by_activation_times_norm_and_is_saved_with_norm_one():
    sae, x = made(TopK, k=1, decoder="free")
    with torch.no_grad():
        sae.decoder.mul_(torch.linspace(0.1, 10, NUM_FEATURES)[:, None])
    pre = (x / sae.scale - sae.b_dec) @ sae.encoder.T + sae.b_enc
    best = (pre * sae.decoder.norm(dim=1)).argmax(1)
    assert torch.equal(sae.encode(x).indices[:, 0], best)
    assert torch.allclose(sae.tensors()["W_dec"].norm(dim=1), torch.ones(NUM_FEATURES, dtype=torch.float64))


@pytest.mark.parametrize("k", [0, NUM_FEATURES + 1])
def test_an_impossible_k_is_refused(k):
    with pytest.raises(Invalid, match=f"k is {k}; it must be between 1 and"):
        TopK(D_IN, TopK.Config(d_sae=NUM_FEATURES, k=k))


def test_codes_of_topk_are_never_negative():
    sae, x = made(TopK, k=40)
    assert torch.all(sae.encode(x).values >= 0)


def test_entries_that_stand_for_no_feature_change_nothing_and_are_summed_for_none():
    made = [TopK(D_IN, TopK.Config(d_sae=NUM_FEATURES, k=L0)) for _ in range(2)]
    rows = torch.randn(40, D_IN, generator=torch.Generator().manual_seed(3))
    found = []
    for sae, dead in zip(made, ([5, 3], [5, 3, -1, -1, -1, -1]), strict=True):
        sae.initialise(rows, torch.Generator().manual_seed(0))
        weights = Weights(*sae.weights())
        term = auxiliary(rows, rows * 0.1, weights, torch.tensor(dead), 6)
        term.backward()
        found.append((term.detach(), sae.encoder.grad, sae.decoder.grad, sae.b_enc.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    assert set(found[1][2].any(1).nonzero()[:, 0].tolist()) <= {3, 5}
