import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from saelab.dictionary import CONFIG_FILE, WEIGHTS_FILE, Codes, Provenance, load_dictionary, save_dictionary
from saelab.errors import Conflict, Corrupt, Invalid, NotFound
from saelab.saes.jumprelu import JumpReLU
from saelab.saes.topk import TopK
from saelab.testing import small

W_ENC = torch.tensor([[1.0, 0.0, 0.0, -1.0, 1.0], [0.0, 1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 2.0, 0.0, 0.0]])
W_DEC = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0], [0.6, 0.8, 0]])
TENSORS = {"W_enc": W_ENC, "b_enc": torch.tensor([0.0, 0.5, 0.0, 0.0, -1.0]), "W_dec": W_DEC, "b_dec": torch.tensor([1.0, 0.0, 0.0])}
X = torch.tensor([[3.0, 1.0, 0.25]])  # less b_dec: 2, 1, 0.25, so the pre-activations are 2, 1.5, 0.5, -2, 2


def by_hand(folder, architecture, tensors, **settings):
    """A folder as SAELens writes it, with nothing of saelab in it."""
    metadata = {"sae_lens_version": "6.54.12", "model_name": "gpt2", "hook_name": "blocks.0.hook_resid_post"}
    sizes = {"d_in": 3, "d_sae": 5, "dtype": "float32", "device": "cpu"}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_text(json.dumps({"architecture": architecture, **sizes, "metadata": metadata, **settings}))
    save_file(tensors, folder / WEIGHTS_FILE)
    return folder


def test_a_topk_folder_written_by_hand_gives_the_codes_computed_by_hand(tmp_path):
    dictionary = load_dictionary(by_hand(tmp_path, "topk", TENSORS, k=2, apply_b_dec_to_input=True))
    assert isinstance(dictionary, TopK)
    assert torch.equal(dictionary.encode(X).dense(), torch.tensor([[2.0, 0, 0, 0, 2.0]]))
    assert torch.allclose(dictionary.decode(dictionary.encode(X)), torch.tensor([[1 + 2 + 1.2, 1.6, 0]]))
    assert torch.equal(dictionary.W_enc, W_ENC)
    assert torch.equal(dictionary.W_dec, W_DEC)
    assert dictionary.provenance is None


def test_a_jumprelu_folder_written_by_hand_gives_the_codes_computed_by_hand(tmp_path):
    threshold = torch.tensor([1.9, 1.6, 0.1, 0.1, 2.0])
    dictionary = load_dictionary(by_hand(tmp_path, "jumprelu", {**TENSORS, "threshold": threshold}))
    assert isinstance(dictionary, JumpReLU)
    assert torch.equal(dictionary.encode(X).dense(), torch.tensor([[2.0, 0, 0.5, 0, 0]]))  # 2.0 does not exceed 2.0


def test_a_decoder_bias_that_is_not_subtracted_is_folded_into_the_encoder(tmp_path):
    dictionary = load_dictionary(by_hand(tmp_path, "topk", TENSORS, k=2, apply_b_dec_to_input=False))
    assert torch.allclose(dictionary.encode(X).dense(), torch.tensor([[3.0, 0, 0, 0, 3.0]]))


def test_activations_rescaled_by_decoder_norm_are_folded(tmp_path):
    tensors = {**TENSORS, "W_dec": W_DEC * torch.tensor([1.0, 1, 8, 1, 1])[:, None]}
    dictionary = load_dictionary(by_hand(tmp_path, "topk", tensors, k=1, rescale_acts_by_decoder_norm=True))
    assert torch.equal(dictionary.encode(X).dense(), torch.tensor([[0, 0, 4.0, 0, 0]]))
    assert torch.allclose(dictionary.directions.norm(dim=1), torch.ones(5))


@pytest.mark.parametrize("name", ["normalize_activations", "reshape_activations"])
def test_a_treatment_of_activations_that_is_not_folded_in_is_refused(tmp_path, name):
    folder = by_hand(tmp_path, "topk", TENSORS, **{name: "layer_norm"})
    with pytest.raises(Invalid, match=f"{name} is 'layer_norm'"):
        load_dictionary(folder)


@pytest.mark.parametrize(("kind", "extra"), [(TopK, {"k": 4, "rescale_acts_by_decoder_norm": False}), (JumpReLU, {})])
def test_a_saved_folder_has_the_keys_and_shapes_of_saelens(tmp_path, kind, extra):
    dictionary = small(kind)
    dictionary.provenance = Provenance(
        model="m", hook="blocks.1.hook_resid_post", context=8, prepend_bos=True, skip_first=1, special_ids=(0,)
    )
    save_dictionary(dictionary, tmp_path)
    settings = json.loads((tmp_path / CONFIG_FILE).read_text())
    ours = settings["metadata"].pop("saelab")
    assert settings == {
        "architecture": kind.architecture,
        "d_in": 24,
        "d_sae": 48,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        **extra,
        "metadata": {
            "sae_lens_version": "6.54.12",
            "model_name": "m",
            "hook_name": "blocks.1.hook_resid_post",
            "context_size": 8,
            "prepend_bos": True,
        },
    }
    assert ours["architecture"] == kind.architecture
    shapes = {name: tuple(tensor.shape) for name, tensor in load_file(tmp_path / WEIGHTS_FILE).items()}
    four = {"W_enc": (24, 48), "b_enc": (48,), "W_dec": (48, 24), "b_dec": (24,)}
    assert shapes == four | ({"threshold": (48,)} if kind is JumpReLU else {})
    assert sorted(item.name for item in tmp_path.iterdir()) == [CONFIG_FILE, WEIGHTS_FILE]


def test_the_scale_of_the_inputs_is_folded_into_what_is_saved(tmp_path):
    dictionary = small(TopK)
    assert float(dictionary.scale) > 1.5
    save_dictionary(dictionary, tmp_path)
    loaded = load_dictionary(tmp_path)
    assert isinstance(loaded, TopK)
    assert float(loaded.scale) == 1
    assert torch.equal(loaded.b_dec, dictionary.b_dec * dictionary.scale)


def test_a_missing_folder_is_not_found(tmp_path):
    with pytest.raises(NotFound, match=r"cfg\.json is missing"):
        load_dictionary(tmp_path / "nowhere")


def test_missing_weights_are_not_found(tmp_path):
    by_hand(tmp_path, "topk", TENSORS)
    (tmp_path / WEIGHTS_FILE).unlink()
    with pytest.raises(NotFound, match=r"sae_weights\.safetensors is missing"):
        load_dictionary(tmp_path)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_truncated_weights_are_corrupt(tmp_path, kept):
    file = by_hand(tmp_path, "topk", TENSORS) / WEIGHTS_FILE
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(Corrupt, match=r"sae_weights\.safetensors: truncated or not a safetensors file"):
        load_dictionary(tmp_path)


def test_a_tensor_of_another_shape_is_corrupt_and_named(tmp_path):
    by_hand(tmp_path, "topk", {**TENSORS, "b_enc": torch.zeros(4)})
    with pytest.raises(Corrupt, match=r"sae_weights\.safetensors: tensor b_enc has shape \[4\]; its settings say \[5\]"):
        load_dictionary(tmp_path)


def test_a_missing_tensor_is_corrupt_and_named(tmp_path):
    by_hand(tmp_path, "jumprelu", TENSORS)
    with pytest.raises(Corrupt, match=r"tensor threshold of shape \[5\] is missing"):
        load_dictionary(tmp_path)


def test_an_extra_tensor_is_corrupt_and_named(tmp_path):
    by_hand(tmp_path, "topk", {**TENSORS, "threshold": torch.ones(5)})
    with pytest.raises(Corrupt, match="unexpected tensor threshold"):
        load_dictionary(tmp_path)


def test_weights_that_are_not_finite_are_corrupt(tmp_path):
    by_hand(tmp_path, "topk", {**TENSORS, "b_dec": torch.tensor([1.0, torch.nan, 0.0])})
    with pytest.raises(Corrupt, match="tensor b_dec holds values that are not finite"):
        load_dictionary(tmp_path)


def test_an_unknown_architecture_is_not_found_with_close_matches(tmp_path):
    by_hand(tmp_path, "topkk", TENSORS)
    with pytest.raises(NotFound, match=r"Unknown dictionary 'topkk'\. Did you mean topk"):
        load_dictionary(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"architecture": "topk", "d_in": "3", "d_sae": 5}'])
def test_broken_settings_are_corrupt(tmp_path, text):
    by_hand(tmp_path, "topk", TENSORS)
    (tmp_path / CONFIG_FILE).write_text(text)
    with pytest.raises(Corrupt, match=r"cfg\.json"):
        load_dictionary(tmp_path)


def test_a_newer_format_is_corrupt(tmp_path):
    by_hand(tmp_path, "topk", TENSORS, metadata={"saelab": {"format": 99, "architecture": "topk"}})
    with pytest.raises(Corrupt, match="format is 99; this version of saelab reads format 1"):
        load_dictionary(tmp_path)


def test_a_folder_that_cannot_be_written_is_a_conflict(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Conflict, match="Cannot write"):
        save_dictionary(small(TopK), tmp_path / "file")


def test_codes_survive_becoming_dense_and_sparse_again():
    z = torch.tensor([[0.0, -2.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0], [3.0, 0.0, 0.0, 0.0]])
    codes = Codes.from_dense(z)
    assert torch.equal(codes.dense(), z)
    assert codes.values.shape == (3, 2)
    assert codes.l0().tolist() == [2, 0, 1]
