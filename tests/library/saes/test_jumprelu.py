import pytest
import torch
from oracles import DEAD, assert_finite_differences_agree, assert_follows, constant_but, made

from saelab.errors import Invalid
from saelab.planted import Planted, World
from saelab.saes import jumprelu
from saelab.saes.jumprelu import JumpReLU
from saelab.testing import D_IN, L0, NUM_FEATURES, planted
from saelab.training import TrainConfig, Trainer

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


def on_lists(monkeypatch, share, fixed=False):
    """Steps work on lists of at most this share of the pre-activations; `fixed`: of fixed lengths, as on a GPU."""
    monkeypatch.setattr(jumprelu, "_MOST", share)
    if fixed:
        monkeypatch.setattr(JumpReLU, "fixed", True)
        monkeypatch.setattr(jumprelu, "fast", lambda _: True)


@pytest.mark.parametrize("room", [None, (0.5, 0.4), (0.5, None)])
@pytest.mark.parametrize("penalty", ["target", "step"])
def test_a_step_on_lists_is_the_dense_one(penalty, room, monkeypatch):
    found = []
    for share in (0.0, 1.0):
        sae, rows = made(JumpReLU, penalty=penalty, sparsity=0.3, target_l0=L0, bandwidth=0.4, k_aux=6)
        on_lists(monkeypatch, share, fixed=bool(share and room))
        sae._room = room if share else None
        losses = sae.losses(rows, DEAD, 1.0)
        torch.stack(list(losses.terms.values())).sum().backward()
        found.append((losses, dict(sae.named_parameters())))
    (dense, dense_weights), (lists, weights) = found
    assert ("left_out" in lists.counts) is bool(room)
    for name, term in dense.terms.items():
        assert torch.allclose(lists.terms[name], term, rtol=1e-12), name
    for field in ("active", "target", "residual", "error", "variance"):
        assert torch.allclose(getattr(lists, field), getattr(dense, field), rtol=1e-12, atol=1e-12), field
    for name, weight in dense_weights.items():
        assert torch.allclose(weights[name].grad, weight.grad, rtol=1e-10, atol=1e-12 * float(weight.grad.abs().max())), name


def test_what_does_not_fit_on_the_lists_is_left_out_from_the_last_rows_and_counted(monkeypatch):
    sae, rows = made(JumpReLU, target_l0=L0)
    dense = sae.losses(rows, NOTHING, 1.0)
    on_lists(monkeypatch, 1.0, fixed=True)
    over, numel = float(dense.active.sum()), len(rows) * NUM_FEATURES
    sae._room = (0.75 * over / numel, 1.0)
    losses = sae.losses(rows, NOTHING, 1.0)
    losses.terms["reconstruction"].backward()
    assert float(losses.counts["left_out"]) == over - float(losses.active.sum()) == pytest.approx(0.25 * over, abs=2)
    assert torch.allclose(losses.residual[:300], dense.residual[:300])
    assert torch.allclose(losses.residual[-1], rows[-1] - sae.offset())
    assert torch.allclose(losses.terms["sparsity"], dense.terms["sparsity"])  # L0 is that of all
    assert all(bool(weight.grad.isfinite().all()) for weight in sae.parameters())


def sparse_world():
    """Rows of which a dictionary of 256 features needs five."""
    return World(Planted(d_in=24, num_features=64, l0=4, noise=0.05))


def curve(steps, monkeypatch, share, fixed=False):
    on_lists(monkeypatch, share, fixed)
    sae = JumpReLU(24, JumpReLU.Config(d_sae=256, target_l0=5.0, initial_l0=3.0))
    trainer = Trainer(sae, TrainConfig(steps=steps, batch_size=128, sample=2048, lr=3e-3, dead_after=128 * 40))
    trainer.initialise(sparse_world().batch(2048, seed=1).x)
    rows, kinds = [], []
    for step, batch in zip(range(steps), sparse_world().batches(128, seed=2), strict=False):
        trainer.step(batch.x)
        kinds.append(trainer._kind)
        if step % 20 == 19:
            rows.append(trainer.row().metrics)
    return rows, kinds


@pytest.mark.parametrize("few", [0.0, 0.5])
def test_training_on_lists_follows_the_dense_curve_and_plans_their_lengths_from_what_earlier_steps_had(few, monkeypatch):
    monkeypatch.setattr(jumprelu, "_FEW", few)  # those near thresholds are listed where they are few
    dense, _ = curve(200, monkeypatch, 0.0)
    lists, kinds = curve(200, monkeypatch, 1 / 4, fixed=True)
    for one, other in zip(dense, lists, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=0.01)
        assert one["l0"] == pytest.approx(other["l0"], rel=0.01)
    assert kinds[0] is not None  # its thresholds begin where so many are over them
    assert kinds[0][1] is None, "how many are near them is told by the first steps"
    assert kinds[-1][0] >= 1.15 * lists[-1]["l0"] / 256
    assert lists[-1]["left_out"] == 0
    assert 2 <= len(set(kinds)) <= 6
    assert (kinds[-1][1] is None) == (few == 0)
