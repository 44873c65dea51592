import json
import shutil
from pathlib import Path

import pytest
import torch

from saelab.baselines.itda import ITDA
from saelab.dictionary import Provenance
from saelab.errors import Conflict, Corrupt, Invalid, NotFound
from saelab.interop.base import FORMATS, find_foreign, read_foreign, write_foreign
from saelab.interop.hub import download
from saelab.saes.abstopk import AbsTopK
from saelab.saes.batchtopk import BatchTopK
from saelab.saes.gated import Gated
from saelab.saes.jumprelu import JumpReLU
from saelab.saes.matryoshka import Matryoshka
from saelab.saes.standard import Standard
from saelab.saes.topk import TopK
from saelab.testing import planted, small

GOLDEN = Path(__file__).parents[2] / "golden" / "interop"
HELD = {
    "saelens": (TopK, AbsTopK, BatchTopK, Matryoshka, JumpReLU, Standard, Gated, ITDA),
    "sparsify": (TopK,),
    "dictionary_learning": (TopK, BatchTopK, Matryoshka, JumpReLU, Standard, Gated),
}
PAIRS = [(form, kind) for form, kinds in HELD.items() for kind in kinds]


@pytest.mark.parametrize(("form", "kind"), PAIRS, ids=[f"{form}-{kind.architecture}" for form, kind in PAIRS])
def test_what_is_written_in_a_format_is_read_from_it_as_the_same_dictionary(tmp_path, form, kind):
    dictionary, x = small(kind), planted(64, seed=3)[0]
    write_foreign(dictionary, tmp_path / "1-res", form)
    again = read_foreign(tmp_path / "1-res")
    assert type(again) is kind
    assert torch.allclose(again.encode(x).dense(), dictionary.encode(x).dense(), atol=1e-4)
    assert torch.allclose(again.decode(again.encode(x)), dictionary.decode(dictionary.encode(x)), atol=1e-4)
    assert getattr(again, "prefixes", None) == getattr(dictionary, "prefixes", None)


@pytest.mark.parametrize("form", ["saelens", "dictionary_learning"])
def test_model_and_hook_go_out_and_come_back(tmp_path, form):
    dictionary = small(TopK)
    origin = Provenance(model="tiny", hook="blocks.3.hook_mlp_out", context=8, prepend_bos=True, skip_first=1, special_ids=())
    dictionary.provenance = origin
    write_foreign(dictionary, tmp_path, form)
    found = find_foreign(tmp_path).origin
    assert (found.model, found.hook) == ("tiny", "blocks.3.hook_mlp_out")


REFUSED = [
    (AbsTopK, "sparsify", "cannot hold a dictionary of the architecture abstopk .* It holds topk, topk_transcoder"),
    (AbsTopK, "dictionary_learning", r"cannot hold .* abstopk\. It holds: batchtopk, gated, jumprelu, matryoshka, standard, topk"),
    (TopK, "gemma_scope", "only read, never written. Formats that are written: dictionary_learning, saelens, sparsify"),
]


@pytest.mark.parametrize(("kind", "form", "said"), REFUSED, ids=[f"{form}-{kind.architecture}" for kind, form, _ in REFUSED])
def test_what_a_format_cannot_hold_is_refused_and_nothing_is_written(tmp_path, kind, form, said):
    with pytest.raises(Invalid, match=said):
        write_foreign(small(kind), tmp_path / "out", form)
    assert not (tmp_path / "out").exists()


def test_an_unknown_format_is_not_found_with_what_is_close(tmp_path):
    with pytest.raises(NotFound, match="Unknown format 'saelense'. Did you mean saelens"):
        write_foreign(small(TopK), tmp_path, "saelense")


def test_a_folder_that_cannot_be_written_is_a_conflict(tmp_path):
    (tmp_path / "file").touch()
    for form in HELD:
        with pytest.raises(Conflict, match="Cannot write"):
            write_foreign(small(TopK), tmp_path / "file", form)


def test_a_folder_in_no_format_is_refused_with_what_it_holds_and_what_is_expected(tmp_path):
    (tmp_path / "model.bin").touch()
    with pytest.raises(Invalid, match=r"no known format\. It holds model\.bin\. Expected one of: .*gemma_scope: params\.npz"):
        read_foreign(tmp_path)
    with pytest.raises(NotFound, match="There is no .*nowhere"):
        read_foreign(tmp_path / "nowhere")


def changed(folder, name, **fields):
    """A golden folder of its own, with other settings."""
    shutil.copytree(GOLDEN / name, folder, dirs_exist_ok=True)
    file = folder / ("cfg.json" if (folder / "cfg.json").exists() else "config.json")
    settings = json.loads(file.read_text())
    settings.get("trainer", settings).update(fields)
    file.write_text(json.dumps(settings))
    return folder


UNREADABLE = [
    ("saelens/topk", {"architecture": "temporal"}, Invalid, "the architecture is 'temporal'; saelab reads standard, topk"),
    ("saelens/topk", {"normalize_activations": "layer_norm"}, Invalid, "normalize_activations is 'layer_norm'"),
    ("saelens/old_topk", {"activation_fn": "tanh-relu"}, Invalid, "the activation function is 'tanh-relu'"),
    ("saelens/topk", {"d_in": 7}, Corrupt, r"tensor W_dec has shape \[24, 8\]; its settings say \[24, 7\]"),
    ("saelens/topk", {"d_in": "8"}, Corrupt, "d_in missing or of the wrong type"),
    ("saelens/topk", {"metadata": {"sae_lens_version": "6.0.0", "hook_head_index": 3}}, Invalid, "one attention head"),
    ("sparsify/layers.1", {"activation": "groupmax"}, Invalid, "the activation is groupmax"),
    ("sparsify/layers.1", {"signed": True}, Invalid, "the activation is signed TopK"),
    ("dictionary_learning/BatchTopKSAE", {"dict_class": "IdentityDict"}, Invalid, "dict_class is 'IdentityDict'"),
    ("dictionary_learning/BatchTopKSAE", {"dict_class": "AutoEncoder"}, Corrupt, "lacks bias and holds b_dec, k, threshold"),
    ("llama_scope/jumprelu", {"sae_type": "crosscoder"}, Invalid, "it is a crosscoder, not an SAE"),
    ("llama_scope/jumprelu", {"act_fn": "batchtopk"}, Invalid, "its activation is batchtopk"),
    ("llama_scope/jumprelu", {"norm_activation": "token-wise"}, Invalid, "normalises every token"),
    ("llama_scope/jumprelu", {"hook_point_out": "blocks.1.hook_mlp_out"}, Invalid, "writes another hook than it reads"),
]


@pytest.mark.parametrize(("name", "fields", "error", "said"), UNREADABLE, ids=[f"{name}-{next(iter(f))}" for name, f, *_ in UNREADABLE])
def test_what_has_no_counterpart_is_refused_with_the_reason(tmp_path, name, fields, error, said):
    with pytest.raises(error, match=said):
        read_foreign(changed(tmp_path, name, **fields))


WEIGHTS = ["saelens/topk/sae_weights.safetensors", "sparsify/layers.1/sae.safetensors", "dictionary_learning/AutoEncoderTopK/ae.pt"]
WEIGHTS += ["llama_scope/jumprelu/sae_weights.safetensors", "gemma_scope/layer_1/params.npz"]


@pytest.mark.parametrize("file", WEIGHTS)
def test_weights_that_are_cut_off_are_corrupt_and_named(tmp_path, file):
    shutil.copytree((GOLDEN / file).parent, tmp_path, dirs_exist_ok=True)
    weights = tmp_path / Path(file).name
    weights.write_bytes(weights.read_bytes()[:-500])
    with pytest.raises(Corrupt, match=weights.name):
        read_foreign(tmp_path)


def test_a_checkpoint_of_dictionary_learning_finds_its_settings_one_folder_up(tmp_path):
    shutil.copytree(GOLDEN / "dictionary_learning/AutoEncoderTopK", tmp_path, dirs_exist_ok=True)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "ae.pt").rename(tmp_path / "checkpoints" / "ae_100.pt")
    assert read_foreign(tmp_path / "checkpoints" / "ae_100.pt").architecture == "topk"
    (tmp_path / "config.json").unlink()
    with pytest.raises(Corrupt, match=r"There is no config\.json beside"):
        read_foreign(tmp_path / "checkpoints" / "ae_100.pt")


def test_a_hook_at_the_heads_is_read_side_by_side(tmp_path):
    read = read_foreign(changed(tmp_path, "saelens/topk", reshape_activations="hook_z"))
    assert read.d_in == 8


def test_the_hub_offline_is_told_with_what_to_download(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(NotFound, match="download https://huggingface.co/some/sae/tree/main/layer_3 elsewhere, copy it here"):
        download("some/sae", "layer_3/")


def test_every_format_names_its_files():
    assert all(FORMATS[name].files for name in FORMATS)


PURSUITS = [
    ({"residual_threshold": 0.01}, "residual_threshold is not 0;"),
    ({"stop_on_duplicate_support": True}, "stop_on_duplicate_support is true;"),
    ({"max_iterations": None}, "max_iterations is not between 1 and d_sae, 48;"),
    ({"max_iterations": 49, "apply_b_dec_to_input": False}, "max_iterations is not .*, apply_b_dec_to_input is false;"),
]


@pytest.mark.parametrize(("fields", "said"), PURSUITS)
def test_a_matching_pursuit_that_stops_otherwise_is_refused(tmp_path, fields, said):
    write_foreign(small(ITDA), tmp_path, "saelens")
    file = tmp_path / "cfg.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({**settings, "d_sae": 48, **fields}))
    with pytest.raises(Invalid, match=said):
        read_foreign(tmp_path)


def test_directions_that_are_not_of_norm_1_are_refused_in_a_matching_pursuit(tmp_path):
    dictionary = small(ITDA)
    dictionary.decoder.mul_(2)
    write_foreign(dictionary, tmp_path, "saelens")
    with pytest.raises(Invalid, match="rows of W_dec are not of norm 1;"):
        read_foreign(tmp_path)


@pytest.mark.parametrize(("name", "found"), [("transcoder", "blocks.1.hook_mlp_out"), ("topk", None)])
def test_saelens_says_where_a_transcoder_writes(tmp_path, name, found):
    metadata = {"sae_lens_version": "6.54.12", "hook_name": "blocks.1.mlp.hook_in", "hook_name_out": "blocks.1.hook_mlp_out"}
    assert find_foreign(changed(tmp_path, f"saelens/{name}", metadata=metadata)).origin.target_hook == found
