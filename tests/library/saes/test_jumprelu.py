import pytest
import torch
from oracles import DEAD, assert_finite_differences_agree, assert_follows, constant_but, made

from saelab.errors import Invalid
from saelab.saes.jumprelu import JumpReLU
from saelab.testing import D_IN, L0, NUM_FEATURES, planted

NOTHING = torch.arange(0)


@pytest.mark.parametrize("decoder", ["unit", "free"])
@pytest.mark.parametrize("penalty", ["target", "step", "tanh"])
def test_jumprelu_follows_a_dense_float64_version(penalty, decoder):
    """The documented straight-through formulas: a ramp over the band stands for the step, seen by θ, and with tanh by pre as well."""
    sae, rows = made(JumpReLU, penalty=penalty, sparsity=0.3, target_l0=L0, bandwidth=0.4, decoder=decoder, preact=0.2, k_aux=6)

    def oracle(world):
        pre, theta, width = world.pre(world.x), sae.base * world.weights["log_ratio"].exp(), 0.4 * sae.base
        step = (pre > theta).double()
        ramp = ((pre if penalty == "tanh" else pre.detach()) - theta) / width + 0.5
        z = constant_but(pre * step, pre * step + theta.detach() * ramp.clamp(0, 1))
        l0 = constant_but(step, ((pre.detach() - theta) / width + 0.5).clamp(0, 1)).sum() / len(pre)
        penalties = {"target": (l0 / L0 - 1).square(), "step": l0, "tanh": (4 * z).tanh().sum(1).mean()}
        error = world.x - z @ world.decoder
        terms = {"reconstruction": error.square().mean(), "sparsity": 0.3 * penalties[penalty], "auxk": world.auxk(error, 6)}
        return terms | ({"preact": 0.2 * (theta - pre).relu().sum(1).mean() / D_IN} if penalty == "tanh" else {})

    assert_follows(sae, rows, oracle)


def test_jumprelu_gradients_are_those_of_finite_differences_where_there_is_no_jump():
    names = ("encoder", "decoder", "b_enc", "b_dec")
    assert_finite_differences_agree(*made(JumpReLU, target_l0=L0), "reconstruction", names)
    assert_finite_differences_agree(*made(JumpReLU, penalty="tanh", target_l0=L0), "preact", ("encoder", "b_enc", "b_dec", "log_ratio"))


@pytest.mark.parametrize("penalty", ["target", "step", "tanh"])
def test_default_settings_reach_the_target(penalty, learned):
    l0, fvu = learned(JumpReLU, penalty=penalty, target_l0=L0)
    assert l0 == pytest.approx(L0, rel=0.15)
    assert fvu < 0.2


def test_the_threshold_has_a_gradient_from_below():
    sae, x = made(JumpReLU, target_l0=L0)
    row = x[:1]
    pre = (row - sae.b_dec * sae.scale) @ sae.encoder.T + sae.b_enc * sae.scale
    sae.log_ratio.data.zero_()
    sae.base.copy_(1.01 * (pre[0].abs() / sae.scale).detach())  # every threshold a little above the pre-activation: nothing is open
    losses = sae.losses(row, NOTHING, 1.0)
    assert float(losses.active.sum()) == 0
    losses.terms["reconstruction"].backward()
    assert torch.all(sae.log_ratio.grad[pre[0] > 0] != 0)


def test_with_tanh_pre_activations_below_the_threshold_learn_too():
    for penalty, moved in (("tanh", True), ("step", False)):
        sae, x = made(JumpReLU, penalty=penalty, target_l0=L0)
        with torch.no_grad():
            pre = sae.centred(x[:1]) @ sae.encoder.T + sae.b_enc * sae.scale
            sae.log_ratio.zero_()
            sae.base.copy_(1.01 * pre[0].abs() / sae.scale)
        sae.losses(x[:1], NOTHING, 1.0).terms["reconstruction"].backward()
        assert bool(sae.encoder.grad.any()) is moved


def test_the_target_pulls_from_both_sides():
    for factor, sign in ((0.5, -1), (1.5, 1)):
        sae, x = made(JumpReLU, target_l0=L0, initial_l0=1.0)
        sae.base.mul_(factor)  # low thresholds: too many open, so descent must raise them
        sae.losses(x, NOTHING, 1.0).terms["sparsity"].backward()
        assert float(sae.log_ratio.grad.sum()) * sign > 0


@pytest.mark.parametrize("sparsity", [None, 2.0])
def test_the_target_has_weight_one_unless_another_is_given_and_warms_up(sparsity):
    sae, x = made(JumpReLU, target_l0=L0, warmup=0.5, sparsity=sparsity)
    start, half, end = (float(sae.losses(x, NOTHING, progress).terms["sparsity"].detach()) for progress in (0.0, 0.25, 0.5))
    missed = float((sae.encode(x).l0().mean() / L0 - 1) ** 2)
    assert start == 0
    assert end == pytest.approx(2 * half)
    assert end == pytest.approx((sparsity or 1.0) * missed)


def test_training_starts_at_the_initial_l0():
    x, _ = planted(512, seed=1)
    sae = JumpReLU(D_IN, JumpReLU.Config(d_sae=NUM_FEATURES, target_l0=L0, initial_l0=2.0))
    sae.initialise(x, torch.Generator().manual_seed(0))
    assert float(sae.encode(x).l0().mean()) == pytest.approx(2 * L0, rel=0.05)


def test_thresholds_stay_positive():
    sae, _ = made(JumpReLU, target_l0=L0)
    with torch.no_grad():
        sae.log_ratio.fill_(-50.0)
    assert torch.all(sae.threshold > 0)


def test_an_impossible_target_is_refused():
    with pytest.raises(Invalid, match=r"target_l0 is 0\.0; it must lie between 0"):
        JumpReLU(D_IN, JumpReLU.Config(d_sae=NUM_FEATURES, target_l0=0.0))


def test_bfloat16_products_move_few_pre_activations_across_their_thresholds():
    x, _ = planted(512, seed=1)
    sae = JumpReLU(D_IN, JumpReLU.Config(d_sae=NUM_FEATURES, target_l0=L0))
    sae.initialise(x, torch.Generator().manual_seed(0))
    full = sae.losses(x, DEAD, 1.0)
    with torch.autocast("cpu", torch.bfloat16):
        found = sae.losses(x, DEAD, 1.0)
    assert (found.active - full.active).abs().sum() < 0.01 * full.active.sum()
    for name, term in full.terms.items():
        assert float(found.terms[name].detach()) == pytest.approx(float(term.detach()), rel=0.02), name
        assert found.terms[name].dtype == torch.float32


def test_thresholds_begin_above_zero_where_half_the_features_shall_be_active():
    sae = JumpReLU(D_IN, JumpReLU.Config(d_sae=NUM_FEATURES, target_l0=NUM_FEATURES / 4))
    x = planted(512, seed=1)[0]
    sae.initialise(x, torch.Generator().manual_seed(0))
    pre = (x - x.mean(0)) @ sae.encoder.detach().T
    assert float(sae.threshold.detach().min()) >= 0.09 * float(pre.square().mean().sqrt())
