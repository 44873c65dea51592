"""Residual: the loss on a frozen dictionary's error, what is frozen and what is learned, and files that hold both parts."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from saelab.baselines.pca import PCA
from saelab.dictionary import CONFIG_FILE, WEIGHTS_FILE, Codes, load_dictionary, save_dictionary
from saelab.errors import Corrupt, Invalid
from saelab.interop.base import read_foreign, write_foreign
from saelab.provenance import Provenance
from saelab.saes.batchtopk import BatchTopK
from saelab.saes.residual import Residual
from saelab.saes.topk import TopK
from saelab.saes.transcoder import Transcoder
from saelab.testing import D_IN, L0, NUM_FEATURES, planted, small
from saelab.training import TrainConfig, Trainer

NEW = 12
"""Features of the new part, and directions that only the new domain has."""
ORIGIN = Provenance(model="m", hook="blocks.1.hook_resid_post", context=8, prepend_bos=True, skip_first=1, special_ids=(0,))
DEAD = torch.tensor([0, 5, 47, 48, 50, 53, 57, 58])


def domain(num_rows, seed):
    """General activations with one more direction each, which no general activation has; and these directions."""
    x, _ = planted(num_rows, seed)
    directions = functional.normalize(torch.randn(NEW, D_IN, generator=torch.Generator().manual_seed(77)), dim=1)
    generator = torch.Generator().manual_seed(seed)
    strengths = 10 * (0.5 + torch.rand(num_rows, 1, generator=generator))
    return x + strengths * directions[torch.randint(NEW, (num_rows,), generator=generator)], directions


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Folder of a TopK SAE that has learned the general activations."""
    x, _ = planted(160 * 256, seed=9)
    trainer = Trainer(TopK.sized(D_IN, NUM_FEATURES, L0), TrainConfig(steps=160, batch_size=256, lr=2e-2, sample=2048))
    trainer.fit(lambda start: iter(x.split(256)[start:]))
    trainer.dictionary.provenance = ORIGIN
    folder = tmp_path_factory.mktemp("frozen") / "base"
    save_dictionary(trainer.dictionary, folder)
    return folder


def made(base, **fields):
    return Residual(D_IN, Residual.Config(base=str(base), d_sae=NEW, k=1, **fields))


def trained(base, folder=None, steps=160, stop=None, **fields):
    rows, _ = domain(160 * 256, seed=5)
    trainer = Trainer(made(base), TrainConfig(**{"steps": steps, "batch_size": 256, "lr": 2e-2, "sample": 2048, **fields}), folder)
    trainer.fit(lambda start: iter(rows.split(256)[start:stop]))
    return trainer.dictionary


@pytest.fixture(scope="module")
def learned(base):
    """A residual SAE trained on the new domain."""
    return trained(base).requires_grad_(False)


def unexplained(dictionary, x):
    with torch.no_grad():
        return float((x - dictionary.decode(dictionary.encode(x))).square().sum() / (x - x.mean(0)).square().sum())


def test_loss_and_gradients_are_those_of_a_dense_float64_version(base):
    residual = made(base, k_aux=3).double()
    rows = domain(512, seed=1)[0].double()
    generator = torch.Generator().manual_seed(0)
    residual.initialise(rows, generator)
    with torch.no_grad():
        for name in ("encoder", "b_enc"):
            weight = residual.new.get_parameter(name)
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator, dtype=torch.float64))
    losses = residual.losses(rows, DEAD, 1.0)
    torch.stack(list(losses.terms.values())).sum().backward()

    frozen = {name: tensor.double() for name, tensor in load_dictionary(base).tensors().items()}
    pre = (rows - frozen["b_dec"]) @ frozen["W_enc"] + frozen["b_enc"]
    codes = pre.relu() * torch.zeros_like(pre).scatter(1, pre.topk(L0).indices, 1.0)
    error = (rows - codes @ frozen["W_dec"] - frozen["b_dec"]).detach()
    x = error / (error - error.mean(0)).square().mean().sqrt()
    w = {name: residual.new.get_parameter(name).detach().clone().requires_grad_() for name in ("encoder", "b_enc", "decoder")}
    pre = x @ w["encoder"].T + w["b_enc"]
    keep = torch.zeros_like(pre).flatten().scatter(0, pre.flatten().topk(len(x)).indices, 1.0).view_as(pre)
    left = x - (pre.relu() * keep) @ w["decoder"]
    dead = DEAD[3:] - NUM_FEATURES
    masked = torch.full_like(pre, -torch.inf).index_copy(1, dead, pre.detach()[:, dead])
    missing = (pre.relu() * torch.zeros_like(pre).scatter(1, masked.topk(3).indices, 1.0)) @ w["decoder"] - left.detach()
    auxk = missing.square().mean() / (left.detach() - left.detach().mean(0)).square().mean() / 4
    terms = {"reconstruction": left.square().mean(), "auxk": auxk}
    torch.stack(list(terms.values())).sum().backward()
    assert losses.terms.keys() == terms.keys()
    for name, term in terms.items():
        assert torch.allclose(losses.terms[name], term, rtol=1e-9), name
    for name, leaf in w.items():
        assert torch.allclose(residual.new.get_parameter(name).grad, leaf.grad, rtol=1e-7, atol=1e-9), name
    assert torch.equal(losses.active, torch.cat([(codes > 0).sum(0), (keep * pre.detach() > 0).sum(0)]).double())
    assert all(parameter.grad is None for parameter in residual.base.parameters())


def test_what_the_frozen_part_lacks_is_learned_and_what_it_has_stays(base, learned):
    x, directions = domain(2048, seed=6)
    frozen = load_dictionary(base)
    cosines = (learned.directions[NUM_FEATURES:] @ directions.T).max(0).values
    assert float(cosines.mean()) > 0.75
    assert unexplained(learned, x) < 0.6 * unexplained(frozen, x)
    general, _ = planted(2048, seed=7)
    assert unexplained(learned, general) < unexplained(frozen, general) + 0.01
    silent = (learned.encode(general).dense()[:, NUM_FEATURES:] == 0).all(1)
    assert float(silent.double().mean()) > 0.5
    codes = learned.encode(general[silent])
    assert torch.allclose(learned.decode(codes), frozen.decode(frozen.encode(general[silent])), atol=1e-5)


def test_training_leaves_every_bit_of_the_frozen_part(base, learned):
    for name, tensor in load_dictionary(base).tensors().items():
        assert torch.equal(learned.tensors()[f"base.{name}"], tensor), name
    assert not learned.new.b_dec.any()
    assert learned.d_sae == NUM_FEATURES + NEW == len(learned.directions)


def test_a_killed_training_ends_with_the_same_bits(base, tmp_path):
    whole = trained(base, tmp_path / "whole", steps=20, checkpoint_every=0.0)
    with pytest.raises(Invalid, match="ended at step 11 of 20"):
        trained(base, tmp_path / "killed", steps=20, stop=11, checkpoint_every=0.0)
    again = trained(base, tmp_path / "killed", steps=20, checkpoint_every=0.0)
    for name, tensor in whole.tensors().items():
        assert torch.equal(again.tensors()[name], tensor), name


@pytest.mark.parametrize("kind", [TopK, BatchTopK, PCA, Residual])
def test_a_file_needs_nothing_else(tmp_path, kind):
    save_dictionary(small(kind), tmp_path / "base")
    residual = trained(tmp_path / "base", tmp_path / "whole", steps=4)
    shutil.rmtree(tmp_path / "base")
    loaded = load_dictionary(tmp_path / "whole")
    x, _ = domain(64, seed=8)
    codes = residual.encode(x)
    assert type(loaded.base) is kind
    assert torch.equal(codes.dense(), loaded.encode(x).dense())
    assert torch.equal(residual.decode(codes), loaded.decode(loaded.encode(x)))
    assert loaded.config == replace(residual.config, decoder="unit")


def test_slots_may_come_in_any_order(learned):
    x, _ = domain(32, seed=8)
    codes = learned.encode(x)
    order = torch.randperm(codes.indices.shape[1], generator=torch.Generator().manual_seed(0))
    mixed = Codes(indices=codes.indices[:, order], values=codes.values[:, order], d_sae=codes.d_sae)
    assert torch.allclose(learned.decode(mixed), learned.decode(codes), atol=1e-5)


def test_another_hook_is_refused_and_a_layer_of_a_group_is_not(base):
    residual = made(base)
    with pytest.raises(Invalid, match="trained on blocks.1.hook_resid_post, and not on blocks.0.hook_mlp_out"):
        residual.locate(replace(ORIGIN, hook="blocks.0.hook_mlp_out"))
    residual.locate(replace(ORIGIN, model="tuned"))
    residual.base.provenance = replace(ORIGIN, hook="blocks.0.hook_resid_post", beside=(ORIGIN.hook,), pooled=True)
    residual.locate(ORIGIN)
    assert residual.provenance == ORIGIN


@pytest.mark.parametrize("kind", [TopK, Transcoder])
def test_a_dictionary_that_does_not_write_what_is_read_is_refused(tmp_path, kind):
    save_dictionary(kind.sized(D_IN if kind is Transcoder else D_IN + 1, NUM_FEATURES, L0), tmp_path)
    with pytest.raises(Invalid, match=f"is a {kind.architecture} that reads .* the activations have {D_IN}"):
        made(tmp_path)


def changed(learned, folder, change):
    save_dictionary(learned, folder)
    settings = json.loads((folder / CONFIG_FILE).read_text())
    settings["base"] = change(settings["base"])
    (folder / CONFIG_FILE).write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda base: {**base, "d_sae": 500}, "The frozen part has 500 features"),
        (lambda base: {"d_in": base["d_in"]}, "base: architecture and d_sae missing"),
        (lambda base: {**base, "d_sae": NUM_FEATURES - 1}, "tensor W_dec has shape"),
        (lambda base: {**base, "architecture": "jumprelu", "metadata": {}}, "base.threshold of shape .* is missing"),
    ],
)
def test_settings_that_do_not_fit_are_corrupt(learned, tmp_path, change, said):
    with pytest.raises(Corrupt, match=said):
        load_dictionary(changed(learned, tmp_path, change))


def test_no_library_takes_it_for_something_else(learned, tmp_path):
    with pytest.raises(Invalid, match="no architecture for a dictionary of the kind residual"):
        write_foreign(learned, tmp_path / "theirs", "saelens")
    save_dictionary(learned, tmp_path / "ours")
    assert (tmp_path / "ours" / WEIGHTS_FILE).is_file()
    ours = read_foreign(tmp_path / "ours")
    assert type(ours) is Residual
    x = torch.randn(8, ours.d_in)
    assert torch.equal(ours.encode(x).dense(), learned.encode(x).dense())
