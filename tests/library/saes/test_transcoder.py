"""Transcoders against a short float64 version, planted maps, and the files of SAELens' four layouts."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from saelab.dictionary import CONFIG_FILE, WEIGHTS_FILE, load_dictionary, save_dictionary
from saelab.errors import Corrupt, Invalid
from saelab.provenance import Provenance
from saelab.saes.transcoder import Transcoder
from saelab.testing import D_IN, L0, NUM_FEATURES, planted
from saelab.training import TrainConfig, Trainer

D_OUT = 16
MAP = torch.randn(NUM_FEATURES, D_OUT, generator=torch.Generator().manual_seed(3))


def mapped(num_rows, seed, linear=0.0):
    """Inputs of planted features; targets in which each of them shows as a direction of its own, in other units; and those directions."""
    _, directions = planted(num_rows, seed)
    generator = torch.Generator().manual_seed(seed)
    active = torch.rand(num_rows, NUM_FEATURES, generator=generator).topk(L0, dim=1).indices
    strengths = 7 * (torch.rand(num_rows, L0, generator=generator) + 0.5)
    z = torch.zeros(num_rows, NUM_FEATURES).scatter(1, active, strengths)
    written = functional.normalize(MAP, dim=1)
    straight = torch.randn(D_IN, D_OUT, generator=torch.Generator().manual_seed(4))
    return torch.cat([z @ directions + 3, 100 * z @ written - 20 + linear * (z @ directions) @ straight], dim=1), directions, written


def made(**fields):
    """A transcoder with weights that are not at their start, and training rows."""
    rows, *_ = mapped(512, seed=1)
    transcoder = Transcoder(D_IN, Transcoder.Config(d_sae=NUM_FEATURES, k=L0, d_out=D_OUT, k_aux=6, **fields))
    generator = torch.Generator().manual_seed(0)
    transcoder.initialise(rows, generator)
    with torch.no_grad():
        for name, parameter in transcoder.named_parameters():
            if name != "decoder":
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return transcoder, rows


def trained(rows, **fields):
    transcoder = Transcoder(D_IN, Transcoder.Config(d_sae=NUM_FEATURES, k=L0, d_out=D_OUT, **fields))
    trainer = Trainer(transcoder, TrainConfig(steps=400, batch_size=512, lr=1e-2))
    trainer.fit(lambda start: iter(rows.split(512)[start:]))
    return transcoder.requires_grad_(False)


def unexplained(transcoder, rows):
    x, y = rows[:, :D_IN], rows[:, D_IN:]
    return float((y - transcoder.written(x, transcoder.encode(x))).square().sum() / (y - y.mean(0)).square().sum())


@pytest.mark.parametrize("selection", ["batchtopk", "topk"])
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("decoder", ["unit", "free"])
def test_loss_and_gradients_are_those_of_a_dense_float64_version(selection, skip, decoder):
    transcoder, rows = made(selection=selection, skip=skip, decoder=decoder)
    dead = torch.tensor([0, 3, 5, 7, 11, 20, 21, 30])
    losses = transcoder.losses(rows, dead, progress=1.0)
    torch.stack(list(losses.terms.values())).sum().backward()

    w = {name: parameter.detach().double().requires_grad_() for name, parameter in transcoder.named_parameters()}
    x, y = rows[:, :D_IN].double(), rows[:, D_IN:].double()
    read = (x - x.mean(0)) / (x - x.mean(0)).square().mean().sqrt()
    target = y / (y - y.mean(0)).square().mean().sqrt() - w["b_dec"]
    target = target - read @ w["skip"].T if skip else target
    norm = w["decoder"].norm(dim=1) if decoder == "free" else torch.ones(NUM_FEATURES, dtype=torch.float64)
    directions = w["decoder"] / norm[:, None]
    pre = norm * (read @ w["encoder"].T + w["b_enc"])
    kept = (
        pre.topk(L0).indices + torch.arange(len(x))[:, None] * NUM_FEATURES if selection == "topk" else pre.flatten().topk(L0 * len(x))[1]
    )
    keep = torch.zeros(pre.numel(), dtype=torch.float64).index_fill(0, kept.flatten(), 1.0).view(pre.shape)
    error = target - (pre.relu() * keep) @ directions
    masked = torch.full_like(pre, -torch.inf).index_copy(1, dead, pre.detach()[:, dead])
    keep_aux = torch.zeros_like(pre).scatter(1, masked.topk(6).indices, 1.0)
    residual = error.detach()
    missing = (pre.relu() * keep_aux) @ directions - residual
    auxk = missing.square().mean() / (residual - residual.mean(0)).square().mean() / 4
    (error.square().mean() + auxk).backward()
    assert float(losses.terms["reconstruction"].detach()) == pytest.approx(float(error.square().mean().detach()), rel=1e-4)
    for name, parameter in transcoder.named_parameters():
        scale = float(w[name].grad.abs().max())
        assert torch.allclose(parameter.grad.double(), w[name].grad, atol=1e-4 * scale), name


@pytest.mark.parametrize("selection", ["batchtopk", "topk"])
def test_a_planted_map_is_recovered(selection):
    rows, read, written = mapped(400 * 512, seed=9)
    transcoder = trained(rows, selection=selection)
    cosines = functional.normalize(transcoder.directions, dim=1) @ written.T
    found = cosines.max(0)
    assert float(found.values.mean()) > 0.95
    belongs = (transcoder.W_enc.T[found.indices] @ read.T).argmax(1)
    assert float((belongs == torch.arange(NUM_FEATURES)).float().mean()) > 0.8, "what writes a direction reads the one that belongs to it"
    test, *_ = mapped(2048, seed=10)
    assert unexplained(transcoder, test) < 0.25


def test_a_skip_connection_takes_what_is_linear():
    rows, *_ = mapped(400 * 512, seed=9, linear=100.0)
    test, *_ = mapped(2048, seed=10, linear=100.0)
    plain, skipping = (unexplained(trained(rows, skip=skip), test) for skip in (False, True))
    assert skipping < 0.5 * plain


@pytest.mark.parametrize("selection", ["batchtopk", "topk"])
@pytest.mark.parametrize("skip", [False, True])
def test_a_saved_transcoder_writes_the_same_bits_and_names_its_layout(tmp_path, selection, skip):
    transcoder, rows = made(selection=selection, skip=skip)
    transcoder.provenance = Provenance(
        model="m",
        hook="blocks.1.hook_resid_mid",
        context=8,
        prepend_bos=True,
        skip_first=1,
        special_ids=(0,),
        target_hook="blocks.1.hook_mlp_out",
    )
    save_dictionary(transcoder, tmp_path)
    loaded = load_dictionary(tmp_path)
    assert isinstance(loaded, Transcoder)
    x = rows[:, :D_IN]
    assert torch.equal(transcoder.encode(x).dense(), loaded.encode(x).dense())
    assert torch.equal(transcoder.written(x, transcoder.encode(x)), loaded.written(x, loaded.encode(x)))
    assert loaded.selection == selection
    settings = json.loads((tmp_path / CONFIG_FILE).read_text())
    kind = "topk_" if selection == "topk" else "jumprelu_"
    assert settings["architecture"] == transcoder.layout == loaded.layout == f"{kind}{'skip_' if skip else ''}transcoder"
    assert (settings["apply_b_dec_to_input"], settings["d_out"]) == (False, D_OUT)
    assert settings["metadata"]["hook_name_out"] == "blocks.1.hook_mlp_out"
    shapes = {name: tuple(tensor.shape) for name, tensor in load_file(tmp_path / WEIGHTS_FILE).items()}
    expected = {"W_enc": (D_IN, NUM_FEATURES), "b_enc": (NUM_FEATURES,), "W_dec": (NUM_FEATURES, D_OUT), "b_dec": (D_OUT,)}
    expected |= {"threshold": (NUM_FEATURES,)} if selection == "batchtopk" else {}
    assert shapes == expected | ({"W_skip": (D_OUT, D_IN)} if skip else {})


W_ENC = torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
FOUR = {"W_enc": W_ENC, "b_enc": torch.tensor([0.5, -1.0, 0.0]), "W_dec": torch.eye(3)[:, :1] + 1, "b_dec": torch.tensor([10.0])}
X = torch.tensor([[2.0, 3.0]])  # pre-activations 2.5, 2, -2
LAYOUTS = {
    "transcoder": ({}, [2.5, 2, 0], 17.0),
    "skip_transcoder": ({"W_skip": torch.tensor([[1.0, 1.0]])}, [2.5, 2, 0], 22.0),
    "jumprelu_transcoder": ({"threshold": torch.tensor([2.4, 2.1, -5.0])}, [2.5, 0, 0], 15.0),
    "jumprelu_skip_transcoder": ({"threshold": torch.tensor([3.0, 1.0, 0.0]), "W_skip": torch.tensor([[1.0, 0.0]])}, [0, 2, 0], 14.0),
}
"""Layout of SAELens -> the tensors beside the four, and the codes and outputs computed by hand."""


def by_hand(folder, layout, extra, **settings):
    cfg = {"architecture": layout, "d_in": 2, "d_sae": 3, "d_out": 1, "apply_b_dec_to_input": False, "metadata": {}, **settings}
    (folder / CONFIG_FILE).write_text(json.dumps(cfg))
    save_file({name: tensor.contiguous() for name, tensor in {**FOUR, **extra}.items()}, folder / WEIGHTS_FILE)
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layouts_of_saelens_give_what_is_computed_by_hand(tmp_path, layout):
    extra, codes, output = LAYOUTS[layout]
    transcoder = load_dictionary(by_hand(tmp_path, layout, extra))
    assert isinstance(transcoder, Transcoder)
    assert transcoder.encode(X).dense().tolist() == [codes]
    assert transcoder.written(X, transcoder.encode(X)).tolist() == [[output]]


def test_a_layout_without_its_tensor_is_corrupt(tmp_path):
    with pytest.raises(Corrupt, match="tensor threshold of shape .* is missing"):
        load_dictionary(by_hand(tmp_path, "jumprelu_transcoder", {}))


def test_a_bias_that_is_taken_off_the_input_is_refused(tmp_path):
    with pytest.raises(Invalid, match="apply_b_dec_to_input is true"):
        load_dictionary(by_hand(tmp_path, "transcoder", {}, apply_b_dec_to_input=True))


@pytest.mark.parametrize(("d_out", "said"), [(0, "d_out is 0"), (7, "d_out is 7, but .* width 5")])
def test_an_impossible_width_is_refused(d_out, said):
    with pytest.raises(Invalid, match=said):
        Transcoder.for_widths((4, 5), Transcoder.Config(d_sae=8, k=2, d_out=d_out)) if d_out else Transcoder(
            4, Transcoder.Config(d_sae=8, k=2, d_out=0)
        )


def test_units_of_input_and_target_change_no_code_but_the_codes_units():
    _, rows = made()
    units = torch.cat([torch.full((D_IN,), 1e-3), torch.full((D_OUT,), 1e3)])
    found = []
    for scaled in (rows, rows * units):
        transcoder = Transcoder(D_IN, Transcoder.Config(d_sae=NUM_FEATURES, k=L0, d_out=D_OUT))
        transcoder.initialise(scaled, torch.Generator().manual_seed(0))
        found.append(transcoder.encode(scaled[:, :D_IN]).dense())
    assert torch.allclose(1e3 * found[0], found[1], rtol=1e-3, atol=1e-2)


def test_the_settings_of_a_read_file_can_be_trained_anew(tmp_path):
    transcoder = load_dictionary(by_hand(tmp_path, "transcoder", {}))
    assert isinstance(transcoder, Transcoder)
    again = Transcoder(2, replace(transcoder.config, k=2))
    again.initialise(torch.randn(64, 3, generator=torch.Generator().manual_seed(0)), torch.Generator().manual_seed(0))
    assert again.d_out == 1
