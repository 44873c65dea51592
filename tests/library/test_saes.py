"""Each architecture against a short float64 version, and against the known defects of other libraries."""

import pytest
import torch
from torch.nn import functional

from saelab.dictionary import Codes
from saelab.errors import Invalid
from saelab.saes.jumprelu import JumpReLU
from saelab.saes.topk import TopK
from saelab.testing import D_IN, L0, NUM_FEATURES, planted
from saelab.training import TrainConfig, Trainer


def made(kind, config, sample=None):
    """A dictionary with weights that are not at their start: encoder and decoder apart, biases not zero."""
    x = planted(512, seed=1)[0] if sample is None else sample
    dictionary = kind(D_IN, config)
    generator = torch.Generator().manual_seed(0)
    dictionary.initialise(x, generator)
    with torch.no_grad():
        dictionary.encoder.add_(0.1 * torch.randn(dictionary.encoder.shape, generator=generator))
        dictionary.b_enc.add_(0.1 * torch.randn(dictionary.b_enc.shape, generator=generator))
    return dictionary, x


def total(losses):
    return torch.stack(list(losses.terms.values())).sum()


def doubles(dictionary):
    return {name: parameter.detach().double().requires_grad_() for name, parameter in dictionary.named_parameters()}


def assert_same_gradients(dictionary, weights, tolerance=1e-4):
    for name, parameter in dictionary.named_parameters():
        scale = weights[name].grad.abs().max()
        assert torch.allclose(parameter.grad.double(), weights[name].grad, atol=tolerance * float(scale)), name


@pytest.mark.parametrize("decoder", ["unit", "free"])
def test_topk_loss_and_gradients_are_those_of_a_dense_float64_version(decoder):
    config = TopK.Config(d_sae=NUM_FEATURES, k=L0, k_aux=6, decoder=decoder)
    sae, x = made(TopK, config)
    dead = torch.tensor([0, 3, 5, 7, 11, 20, 21, 30])
    total(sae.losses(x, dead, progress=1.0)).backward()

    weights, s = doubles(sae), float(sae.scale)
    norm = weights["decoder"].norm(dim=1) if decoder == "free" else torch.ones(NUM_FEATURES, dtype=torch.float64)
    decoder_rows = weights["decoder"] / norm[:, None]
    centred = x.double() / s - weights["b_dec"]
    pre = norm * (centred @ weights["encoder"].T + weights["b_enc"])
    keep = torch.zeros_like(pre).scatter(1, pre.topk(L0).indices, 1.0)
    error = centred - (pre.relu() * keep) @ decoder_rows
    silent = centred.detach() @ weights["encoder"].T + weights["b_enc"]
    masked = torch.full_like(pre, -torch.inf).index_copy(1, dead, (norm * silent)[:, dead])
    keep_aux = torch.zeros_like(pre).scatter(1, masked.topk(6).indices, 1.0)
    written = ((norm * silent).relu() * keep_aux) @ decoder_rows
    residual = error.detach()
    auxk = (written - residual).square().mean() / (residual - residual.mean(0)).square().mean() / 32
    (error.square().mean() + auxk).backward()
    assert_same_gradients(sae, weights)


def test_jumprelu_loss_and_gradients_are_those_of_a_dense_float64_version():
    config = JumpReLU.Config(d_sae=NUM_FEATURES, target_l0=L0, bandwidth=0.4)
    sae, x = made(JumpReLU, config)
    losses = sae.losses(x, torch.zeros(0, dtype=torch.int64), progress=1.0)
    total(losses).backward()

    weights, s = doubles(sae), float(sae.scale)
    base = sae.base.double()
    theta = (base * weights["log_ratio"].exp()).detach().requires_grad_()
    centred = x.double() / s - weights["b_dec"]
    pre = centred @ weights["encoder"].T + weights["b_enc"]
    open_ = (pre > theta).double()
    z = pre * open_
    error = centred - z @ weights["decoder"]
    z.retain_grad()
    loss = error.square().mean()
    loss.backward()
    near = ((pre - theta).abs() < 0.2 * base).double()
    l0 = open_.sum() / len(x)
    to_theta = -(theta * z.grad * near).sum(0) / (0.4 * base) - 2 * (l0 / L0 - 1) / L0 * near.sum(0) / len(x) / (0.4 * base)
    weights["log_ratio"].grad = (to_theta * theta).detach()
    assert float(losses.terms["reconstruction"].detach()) == pytest.approx(float(loss.detach()), rel=1e-4)
    assert float(losses.terms["sparsity"].detach()) == pytest.approx(float((l0 / L0 - 1) ** 2), rel=1e-4)
    assert_same_gradients(sae, weights)


def test_auxk_gradient_reaches_the_encoder_of_dead_features():
    sae, x = made(TopK, TopK.Config(d_sae=NUM_FEATURES, k=L0))
    sae.losses(x, torch.arange(8), progress=1.0).terms["auxk"].backward()
    assert torch.all(sae.encoder.grad[:8].norm(dim=1) > 0)
    assert torch.all(sae.encoder.grad[8:] == 0)
    assert torch.all(sae.decoder.grad[:8].norm(dim=1) > 0)


def test_auxk_does_not_depend_on_the_scale_of_the_activations():
    x = planted(512, seed=1)[0]
    terms = [made(TopK, TopK.Config(d_sae=NUM_FEATURES, k=L0), unit * x)[0] for unit in (1.0, 1e3)]
    small, large = (
        float(sae.losses(unit * x, torch.arange(8), 1.0).terms["auxk"].detach()) for sae, unit in zip(terms, (1.0, 1e3), strict=True)
    )
    assert small == pytest.approx(large, rel=1e-4)


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
    sae, x = made(TopK, TopK.Config(d_sae=NUM_FEATURES, k=L0))
    assert set(sae.losses(x, torch.arange(0), 1.0).terms) == {"reconstruction"}


def test_jumprelu_threshold_has_a_gradient_from_below():
    sae, x = made(JumpReLU, JumpReLU.Config(d_sae=NUM_FEATURES, target_l0=L0))
    row = x[:1]
    pre = (row - sae.b_dec * sae.scale) @ sae.encoder.T + sae.b_enc * sae.scale
    sae.base.copy_(1.01 * (pre[0].abs() / sae.scale).detach())  # every threshold a little above the pre-activation: nothing is open
    losses = sae.losses(row, torch.arange(0), 1.0)
    assert float(losses.active.sum()) == 0
    losses.terms["reconstruction"].backward()
    assert torch.all(sae.log_ratio.grad[pre[0] > 0] != 0)


def test_jumprelu_penalty_pulls_towards_the_target_from_both_sides():
    for factor, sign in ((0.5, -1), (1.5, 1)):
        sae, x = made(JumpReLU, JumpReLU.Config(d_sae=NUM_FEATURES, target_l0=L0, initial_l0=1.0))
        sae.base.mul_(factor)  # low thresholds: too many open, so descent must raise them
        sae.losses(x, torch.arange(0), 1.0).terms["sparsity"].backward()
        assert float(sae.log_ratio.grad.sum()) * sign > 0


def test_jumprelu_penalty_warms_up():
    sae, x = made(JumpReLU, JumpReLU.Config(d_sae=NUM_FEATURES, target_l0=L0, warmup=0.5))
    start, half, end = (float(sae.losses(x, torch.arange(0), progress).terms["sparsity"].detach()) for progress in (0.0, 0.25, 0.5))
    assert start == 0
    assert end == pytest.approx(2 * half)


def test_jumprelu_starts_at_its_initial_l0():
    x, _ = planted(512, seed=1)
    sae = JumpReLU(D_IN, JumpReLU.Config(d_sae=NUM_FEATURES, target_l0=L0, initial_l0=2.0))
    sae.initialise(x, torch.Generator().manual_seed(0))
    assert float(sae.encode(x).l0().mean()) == pytest.approx(2 * L0, rel=0.05)


def test_jumprelu_thresholds_stay_positive():
    sae, _ = made(JumpReLU, JumpReLU.Config(d_sae=NUM_FEATURES, target_l0=L0))
    with torch.no_grad():
        sae.log_ratio.fill_(-50.0)
    assert torch.all(sae.threshold > 0)


@pytest.mark.parametrize("kind", [TopK, JumpReLU])
def test_decoder_rows_keep_norm_one_and_the_step_only_turns_them(kind):
    sae, x = made(kind, kind.sized(D_IN, NUM_FEATURES, L0).config)
    total(sae.losses(x, torch.arange(4), 1.0)).backward()
    sae.before_step()
    assert torch.allclose((sae.decoder.grad * sae.decoder).sum(1), torch.zeros(NUM_FEATURES), atol=1e-6)
    with torch.no_grad():
        sae.decoder.mul_(3)
    sae.after_step()
    assert torch.allclose(sae.decoder.norm(dim=1), torch.ones(NUM_FEATURES))


def test_bias_starts_at_the_mean_and_the_encoder_at_the_decoder():
    x, _ = planted(512, seed=1)
    sae = TopK(D_IN, TopK.Config(k=L0))
    sae.initialise(x, torch.Generator().manual_seed(0))
    nothing = Codes(indices=torch.zeros(1, L0, dtype=torch.int64), values=torch.zeros(1, L0), d_sae=sae.d_sae)
    assert sae.d_sae == 8 * D_IN
    assert torch.allclose(sae.decode(nothing)[0], x.mean(0), atol=1e-4)
    assert torch.equal(sae.encoder, sae.decoder)
    assert float(((x - x.mean(0)) / sae.scale).square().mean()) == pytest.approx(1, rel=1e-4)


def test_a_free_decoder_ranks_by_activation_times_norm_and_is_saved_with_norm_one():
    sae, x = made(TopK, TopK.Config(d_sae=NUM_FEATURES, k=1, decoder="free"))
    with torch.no_grad():
        sae.decoder.mul_(torch.linspace(0.1, 10, NUM_FEATURES)[:, None])
    pre = (x / sae.scale - sae.b_dec) @ sae.encoder.T + sae.b_enc
    best = (pre * sae.decoder.norm(dim=1)).argmax(1)
    assert torch.equal(sae.encode(x).indices[:, 0], best)
    assert torch.allclose(sae.tensors()["W_dec"].norm(dim=1), torch.ones(NUM_FEATURES))


@pytest.mark.parametrize("k", [0, NUM_FEATURES + 1])
def test_an_impossible_k_is_refused(k):
    with pytest.raises(Invalid, match=f"k is {k}; it must be between 1 and"):
        TopK(D_IN, TopK.Config(d_sae=NUM_FEATURES, k=k))


def test_an_impossible_target_is_refused():
    with pytest.raises(Invalid, match="target_l0 is 0.0; it must lie between 0"):
        JumpReLU(D_IN, JumpReLU.Config(d_sae=NUM_FEATURES, target_l0=0.0))


def test_signed_codes_of_topk_are_never_negative():
    sae, x = made(TopK, TopK.Config(d_sae=NUM_FEATURES, k=40))
    assert torch.all(sae.encode(x).values >= 0)
    assert torch.all(functional.relu(sae.encode(x).dense()) == sae.encode(x).dense())
