"""Mistakes that other libraries make with these formats, and what a reader must not trust."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from saelab.errors import Corrupt, Invalid
from saelab.interop.base import read_foreign

GOLDEN = Path(__file__).parents[2] / "golden" / "interop"


def sparsify_folder(folder, d_in, d_sae, **config):
    """A folder as sparsify writes it, of random weights."""
    draw = torch.Generator().manual_seed(0)
    tensors = {
        "encoder.weight": torch.randn(d_sae, d_in, generator=draw),
        "encoder.bias": torch.zeros(d_sae),
        "W_dec": torch.randn(d_sae, d_in, generator=draw),
        "b_dec": torch.ones(d_in),
    }
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"activation": "topk", "k": 2, "d_in": d_in, **config}))
    return folder, tensors


def test_a_row_of_sparsifys_decoder_is_a_feature_even_where_the_matrix_is_square(tmp_path):
    folder, tensors = sparsify_folder(tmp_path, 4, 4, num_latents=4)
    assert torch.equal(read_foreign(folder).directions, tensors["W_dec"])


def test_no_number_of_latents_stands_for_the_expansion_factor(tmp_path):
    folder, _ = sparsify_folder(tmp_path, 4, 12, num_latents=0, expansion_factor=3)
    assert read_foreign(folder).d_sae == 12


@pytest.mark.parametrize("normalised", [True, False])
def test_sparsify_subtracts_the_decoders_bias_whether_rows_are_normalised_or_not(tmp_path, normalised):
    folder, tensors = sparsify_folder(tmp_path, 4, 12, num_latents=12, normalize_decoder=normalised)
    codes = read_foreign(folder).encode(torch.ones(1, 4) + tensors["encoder.weight"][5]).dense().detach()
    assert float(codes[0, 5]) == pytest.approx(float(tensors["encoder.weight"][5].square().sum()), rel=1e-5)


def test_the_threshold_of_a_checkpoint_moves_with_the_scale_that_is_folded_in():
    expected = load_file(GOLDEN / "saelens/checkpoint_batchtopk_scaled/expected.safetensors")
    dictionary = read_foreign(GOLDEN / "saelens/checkpoint_batchtopk_scaled")
    kept = dictionary.encode(expected["x"]).dense().detach()
    assert torch.equal(kept != 0, expected["codes"] != 0)
    assert float(kept[kept > 0].min()) > 1.3 / 0.7


def test_a_scale_that_nobody_wrote_down_is_refused(tmp_path):
    settings = json.loads((GOLDEN / "saelens/checkpoint_batchtopk_scaled/cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps(settings))
    (tmp_path / "sae_weights.safetensors").write_bytes((GOLDEN / "saelens/topk/sae_weights.safetensors").read_bytes())
    with pytest.raises(Invalid, match=r"no activation_scaler\.json beside it says the factor"):
        read_foreign(tmp_path)


def test_a_batchtopk_whose_threshold_was_never_set_is_refused(tmp_path):
    state = torch.load(GOLDEN / "dictionary_learning/BatchTopKSAE/ae.pt", weights_only=True)
    torch.save({**state, "threshold": torch.tensor(-1.0)}, tmp_path / "ae.pt")
    (tmp_path / "config.json").write_bytes((GOLDEN / "dictionary_learning/BatchTopKSAE/config.json").read_bytes())
    with pytest.raises(Invalid, match="the threshold is -1, so training ended before it was set"):
        read_foreign(tmp_path)


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def test_a_pickle_that_runs_something_is_not_opened(tmp_path):
    torch.save({"encoder.weight": Trap(tmp_path / "sprung")}, tmp_path / "ae.pt")
    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": "AutoEncoderTopK", "k": 2}}))
    with pytest.raises(Corrupt, match=r"ae\.pt holds something else than plain tensors"):
        read_foreign(tmp_path)
    assert not (tmp_path / "sprung").exists()
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung")))
    assert (tmp_path / "sprung").exists(), "the trap would have sprung"


def test_an_archive_of_pickled_arrays_is_not_opened(tmp_path):
    np.savez(tmp_path / "params.npz", W_enc=np.array([Trap(tmp_path / "sprung")], dtype=object))
    with pytest.raises(Corrupt, match="not an archive of plain arrays"):
        read_foreign(tmp_path)
    assert not (tmp_path / "sprung").exists()
