"""The weight of a penalty: given, or sought."""

import pytest
import torch
from oracles import made

from saelab.dictionary import WEIGHTS_FILE
from saelab.saes.gated import Gated
from saelab.saes.jumprelu import JumpReLU
from saelab.saes.standard import Standard
from saelab.testing import D_IN, L0, NUM_FEATURES, planted
from saelab.training import TrainConfig, Trainer

NOTHING = torch.arange(0)


@pytest.mark.parametrize("kind", [Standard, Gated])
def test_the_weight_is_found_that_leads_to_the_target(kind, learned):
    l0, fvu = learned(kind, target_l0=L0)
    assert l0 == pytest.approx(L0, rel=0.15)
    assert fvu < (0.45 if kind is Standard else 0.16)  # an L1 penalty shrinks activations; a gate keeps them


@pytest.mark.parametrize("kind", [Standard, Gated, JumpReLU])
def test_a_given_weight_rises_over_the_warmup(kind):
    given = {"sparsity": 0.5, "penalty": "step"} if kind is JumpReLU else {"l1": 0.5}
    sae, rows = made(kind, target_l0=L0, warmup=0.2, **given)
    found = [float(sae.losses(rows, NOTHING, progress).terms["sparsity"].detach()) for progress in (0.0, 0.1, 0.2, 0.9)]
    assert found[0] == 0
    assert found[1:] == pytest.approx([found[3] / 2, found[3], found[3]])


@pytest.mark.parametrize(("target", "higher"), [(1.0, True), (40.0, False)])
def test_the_weight_rises_while_too_much_is_active_and_falls_while_too_little_is(target, higher):
    sae, rows = made(Standard, target_l0=target)
    prices = []
    for step in range(30):
        losses = sae.losses(rows, NOTHING, 0.05 + step / 100)
        prices.append(float(sae.price(losses.active.sum() / len(rows), 0.05 + step / 100)))
        sae.after_step()
    assert (prices[-1] > prices[0]) is higher
    assert prices == sorted(prices, reverse=not higher)
    assert abs(float(sae.sought)) <= 4


@pytest.mark.parametrize("kind", [Standard, JumpReLU])
def test_the_search_goes_on_where_progress_is_read_from_a_tensor_that_changes_in_place(kind):
    penalty = {"penalty": "step"} if kind is JumpReLU else {}
    (told, rows), (read, _) = (made(kind, target_l0=L0, warmup=0.1, **penalty) for _ in range(2))
    place, found = torch.zeros((), dtype=torch.float64), []
    for step in range(12):
        place.fill_(step / 20)
        found.append([float(sae.losses(rows, NOTHING, now).terms["sparsity"].detach()) for sae, now in ((told, step / 20), (read, place))])
        told.after_step()
        read.after_step()
    assert all(one == other for one, other in found)
    assert float(told.sought) == float(read.sought) != 0
    assert float(read.until) == pytest.approx(11 / 20)


def test_the_search_survives_an_interruption_to_the_bit(tmp_path):
    x, _ = planted(40 * 64, seed=1)
    config = TrainConfig(steps=40, batch_size=64, sample=128, log_every=4, checkpoint_every=0.0, lr=1e-2)

    def batches(start, last=40):
        yield from x.split(64)[start:last]
        if last < 40:
            raise KeyboardInterrupt

    whole = Trainer(Gated.sized(D_IN, NUM_FEATURES, L0), config, tmp_path / "whole")
    whole.fit(batches)
    with pytest.raises(KeyboardInterrupt):
        Trainer(Gated.sized(D_IN, NUM_FEATURES, L0), config, tmp_path / "killed").fit(lambda start: batches(start, 17))
    Trainer(Gated.sized(D_IN, NUM_FEATURES, L0), config, tmp_path / "killed").fit(batches)
    assert float(whole.dictionary.sought) != 0
    assert (tmp_path / "killed" / WEIGHTS_FILE).read_bytes() == (tmp_path / "whole" / WEIGHTS_FILE).read_bytes()
