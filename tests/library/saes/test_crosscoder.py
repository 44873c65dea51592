"""Crosscoders against a short float64 version, features that are shared or of one hook alone, and hooks of unlike size."""

import pytest
import torch
from torch.nn import functional

from saelab.dictionary import load_dictionary, save_dictionary
from saelab.errors import Invalid
from saelab.provenance import Provenance
from saelab.saes.crosscoder import Crosscoder
from saelab.training import TrainConfig, Trainer

WIDTHS = (16, 24)
SIZES = torch.tensor([1.0] * 16 + [1000.0] * 24)
SHARED, FIRST, SECOND = range(16), range(16, 24), range(24, 32)


def planted(num_rows, seed):
    """Rows of two hooks, the second a thousand times as large; features 0-15 are at both, 16-23 at the first, 24-31 at the second alone."""
    generator = torch.Generator().manual_seed(0)
    parts = [functional.normalize(torch.randn(32, width, generator=generator), dim=1) for width in WIDTHS]
    parts[0][24:] = 0
    parts[1][16:24] = 0
    directions = torch.cat(parts, dim=1)
    generator = torch.Generator().manual_seed(seed)
    z = (torch.rand(num_rows, 32, generator=generator) < 3 / 32) * (0.5 + torch.rand(num_rows, 32, generator=generator))
    return (z @ directions + 2) * SIZES, functional.normalize(directions, dim=1)


def made(**fields):
    """A crosscoder with weights that are not at their start, and training rows."""
    rows, _ = planted(512, seed=1)
    crosscoder = Crosscoder(40, Crosscoder.Config(d_sae=32, k=3, k_aux=6, widths=WIDTHS, **fields))
    generator = torch.Generator().manual_seed(0)
    crosscoder.initialise(rows, generator)
    with torch.no_grad():
        crosscoder.encoder.add_(0.1 * torch.randn(crosscoder.encoder.shape, generator=generator))
        crosscoder.b_enc.add_(0.1 * torch.randn(crosscoder.b_enc.shape, generator=generator))
    return crosscoder, rows


@pytest.fixture(scope="module")
def trained():
    rows, _ = planted(600 * 512, seed=9)
    crosscoder = Crosscoder(40, Crosscoder.Config(d_sae=48, k=3, widths=WIDTHS))
    Trainer(crosscoder, TrainConfig(steps=600, batch_size=512, lr=1e-2)).fit(lambda start: iter(rows.split(512)[start:]))
    return crosscoder.requires_grad_(False)


def units_of(rows):
    """What divides each value, so that each hook has the same variance: 20 values' worth, half of the 40."""
    parts = [part - part.mean(0) for part in rows.double().split(WIDTHS, dim=1)]
    return torch.cat([(part.square().sum(1).mean() / 20).sqrt().expand(part.shape[1]) for part in parts])


@pytest.mark.parametrize("decoder", ["unit", "free"])
def test_loss_and_gradients_are_those_of_a_dense_float64_version(decoder):
    crosscoder, rows = made(decoder=decoder)
    dead = torch.tensor([0, 3, 5, 7, 11, 20, 21, 30])
    losses = crosscoder.losses(rows, dead, progress=1.0)
    torch.stack(list(losses.terms.values())).sum().backward()

    w = {name: parameter.detach().double().requires_grad_() for name, parameter in crosscoder.named_parameters()}
    x = rows.double() / units_of(rows) - w["b_dec"]
    norm = w["decoder"].norm(dim=1) if decoder == "free" else torch.ones(32, dtype=torch.float64)
    directions = w["decoder"] / norm[:, None]
    pre = norm * (x @ w["encoder"].T + w["b_enc"])
    keep = torch.zeros(pre.numel(), dtype=torch.float64).index_fill(0, pre.flatten().topk(3 * len(x)).indices, 1.0).view(pre.shape)
    error = x - (pre.relu() * keep) @ directions
    silent = norm * (x.detach() @ w["encoder"].T + w["b_enc"])
    masked = torch.full_like(pre, -torch.inf).index_copy(1, dead, silent.detach()[:, dead])
    keep_aux = torch.zeros_like(pre).scatter(1, masked.topk(6).indices, 1.0)
    residual = error.detach()
    missing = (silent.relu() * keep_aux) @ directions - residual
    auxk = missing.square().mean() / (residual - residual.mean(0)).square().mean() / 4
    (error.square().mean() + auxk).backward()
    assert float(losses.terms["reconstruction"].detach()) == pytest.approx(float(error.square().mean().detach()), rel=1e-4)
    for name, parameter in crosscoder.named_parameters():
        scale = float(w[name].grad.abs().max())
        assert torch.allclose(parameter.grad.double(), w[name].grad, atol=1e-3 * scale), name


def test_the_loss_is_the_mean_over_the_hooks_of_each_ones_unexplained_variance():
    crosscoder, rows = made()
    losses = crosscoder.losses(rows, torch.arange(0), progress=1.0)
    hooks = zip(losses.target.split(WIDTHS, 1), (losses.target - losses.residual).split(WIDTHS, 1), strict=True)
    each = [float((x - y).square().sum() / (x - x.mean(0)).square().sum()) for x, y in hooks]
    assert float(losses.terms["reconstruction"].detach()) == pytest.approx(sum(each) / 2, rel=1e-3)


def test_shared_and_exclusive_features_are_found_and_told_apart(trained):
    rows, directions = planted(2048, seed=10)
    x = rows / units_of(rows).float()
    found = functional.normalize(trained.directions / units_of(rows).float(), dim=1)
    scaled = functional.normalize(directions * SIZES / units_of(rows).float(), dim=1)
    cosines, match = (found @ scaled.T).max(0)
    assert float(cosines.mean()) > 0.95
    share = trained.norms()[match, 1].square()
    assert torch.all((share[SHARED] > 0.25) & (share[SHARED] < 0.75))
    assert torch.all(share[FIRST] < 0.1)
    assert torch.all(share[SECOND] > 0.9)
    written = trained.decode(trained.encode(rows)) / units_of(rows).float()
    assert float((x - written).square().sum() / (x - x.mean(0)).square().sum()) < 0.1


def test_norms_are_those_of_the_rows_that_training_knows_and_survive_saving(trained, tmp_path):
    expected = torch.stack([part.norm(dim=1) for part in trained.decoder.detach().split(WIDTHS, dim=1)], dim=1)
    assert torch.allclose(trained.norms(), expected, atol=1e-5)
    save_dictionary(trained, tmp_path)
    loaded = load_dictionary(tmp_path)
    assert isinstance(loaded, Crosscoder)
    assert torch.equal(loaded.norms(), trained.norms())
    assert loaded.widths == WIDTHS


def test_the_size_of_one_hook_changes_nothing_but_the_codes_units():
    rows, _ = planted(512, seed=1)
    found = []
    for sizes in (torch.ones(40), 1 / SIZES):
        crosscoder = Crosscoder(40, Crosscoder.Config(d_sae=32, k=3, widths=WIDTHS))
        crosscoder.initialise(rows * sizes, torch.Generator().manual_seed(0))
        codes = crosscoder.encode(rows * sizes)
        found.append((codes.dense() != 0, crosscoder.decode(codes) / sizes, crosscoder.norms()))
    assert float((found[0][0] != found[1][0]).float().mean()) < 1e-4
    assert torch.allclose(found[0][1] / SIZES, found[1][1] / SIZES, atol=1e-2)
    assert torch.allclose(found[0][2], found[1][2], atol=1e-4)


def test_rows_that_are_massive_at_any_hook_are_not_ordinary():
    crosscoder, _ = made()
    crosscoder.provenance = Provenance(
        model="m",
        hook="a",
        context=8,
        prepend_bos=False,
        skip_first=1,
        special_ids=(),
        max_norm=5.0,
        beside=("b",),
        other_norms=(None,),
    )
    x = torch.ones(3, 40)
    x[0, 0], x[1, 16] = 9.0, 9.0
    assert crosscoder.ordinary(x).tolist() == [False, True, True]


@pytest.mark.parametrize("widths", [(), (40, 0), (16, 16)])
def test_widths_that_are_not_those_of_a_row_are_refused(widths):
    with pytest.raises(Invalid, match=r"widths of a crosscoder's hooks are .* together they must be the 40"):
        Crosscoder(40, Crosscoder.Config(d_sae=32, k=3, widths=widths))


def test_widths_that_are_not_those_of_the_hooks_are_refused():
    with pytest.raises(Invalid, match=r"widths are \[20, 20\], but the hooks' activations have \[16, 24\]"):
        Crosscoder.for_widths(WIDTHS, Crosscoder.Config(d_sae=32, k=3, widths=(20, 20)))
