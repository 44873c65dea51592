"""What all architectures that learn by gradient descent share."""

import pytest
import torch

from saelab.dictionary import DICTIONARIES, Codes
from saelab.kernels.adam import Adam
from saelab.saes.base import SAE
from saelab.saes.topk import TopK
from saelab.testing import D_IN, L0, NUM_FEATURES, planted, training_rows

NAMES = [name for name in DICTIONARIES if issubclass(DICTIONARIES[name], SAE)]


def begun(name, unit=1.0):
    kind = DICTIONARIES[name]
    sae = kind(D_IN, kind.sized(D_IN, NUM_FEATURES, L0).config)
    rows = training_rows(sae, unit * planted(512, seed=1)[0])
    sae.initialise(rows, torch.Generator().manual_seed(0))
    return sae, rows


@pytest.mark.parametrize("name", NAMES)
def test_float64_agrees_with_float32(name):
    sae, rows = begun(name)
    found = sae.losses(rows, torch.arange(4), 1.0)
    exact = sae.double().losses(rows.double(), torch.arange(4), 1.0)
    codes = sae.encode(rows[:, :D_IN].double())
    assert exact.terms["reconstruction"].dtype == codes.values.dtype == sae.decode(codes).dtype == torch.float64
    for name, term in found.terms.items():
        assert float(term.detach()) == pytest.approx(float(exact.terms[name].detach()), rel=1e-3), (
            name
        )  # one code more or less at a threshold
    assert torch.allclose(found.residual.double(), exact.residual, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_decoder_rows_keep_norm_one_where_it_is_fixed_and_the_step_only_turns_them(name):
    sae, rows = begun(name)
    torch.stack(list(sae.losses(rows, torch.arange(4), 1.0).terms.values())).sum().backward()
    optimiser = Adam(sae.parameters(), lr=0.1, betas=(0.9, 0.99), clip=1.0, unit=sae.unit_rows())
    before = sae.decoder.detach().clone()
    optimiser.step()
    along = (optimiser.state[sae.decoder]["exp_avg"] * before).sum(1)
    fixed = sae.config.decoder == "unit"
    assert torch.allclose(along, torch.zeros_like(along), atol=1e-6) is fixed
    assert torch.allclose(sae.decoder.norm(dim=1), torch.ones(NUM_FEATURES)) is fixed
    assert torch.allclose(sae.directions.norm(dim=1), torch.ones(NUM_FEATURES))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_the_same_for_activations_of_any_size(name):
    gradients = []
    for unit in (1.0, 1e3):
        sae, rows = begun(name, unit)
        torch.stack(list(sae.losses(rows, torch.arange(4), 1.0).terms.values())).sum().backward()
        gradients.append({name: parameter.grad for name, parameter in sae.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradients[1][name], gradient, rtol=1e-2, atol=1e-3 * float(gradient.abs().max())), name


def test_bias_starts_at_the_mean_and_the_encoder_at_the_decoder():
    x, _ = planted(512, seed=1)
    sae = TopK(D_IN, TopK.Config(k=L0))
    sae.initialise(x, torch.Generator().manual_seed(0))
    nothing = Codes(indices=torch.zeros(1, L0, dtype=torch.int64), values=torch.zeros(1, L0), d_sae=sae.d_sae)
    assert sae.d_sae == 8 * D_IN
    assert torch.allclose(sae.decode(nothing)[0], x.mean(0), atol=1e-4)
    assert torch.equal(sae.encoder, sae.decoder)
    assert float(((x - x.mean(0)) / sae.scale).square().mean()) == pytest.approx(1, rel=1e-4)
