"""What the real libraries saved, read by us: the same codes and the same reconstructions as theirs.

`make interop` points SAELAB_INTEROP at what it has just made with them.
"""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from saelab.interop.base import FORMATS, find_foreign, read_foreign

GOLDEN = Path(os.environ.get("SAELAB_INTEROP") or Path(__file__).parents[2] / "golden" / "interop")
FOLDERS = sorted(str(file.parent.relative_to(GOLDEN)) for file in GOLDEN.rglob("expected.safetensors"))


@pytest.mark.parametrize("name", FOLDERS)
def test_codes_and_reconstructions_are_those_of_the_library_that_saved_it(name):
    expected = load_file(GOLDEN / name / "expected.safetensors")
    dictionary = read_foreign(GOLDEN / name)
    codes = dictionary.encode(expected["x"])
    assert torch.allclose(codes.dense(), expected["codes"], atol=1e-5, rtol=1e-5)
    written = dictionary.written(expected["x"], codes)
    assert torch.allclose(written, expected["reconstruction"], atol=1e-5, rtol=1e-5)


def test_every_format_has_golden_folders():
    assert {name.split("/")[0] for name in FOLDERS} == set(FORMATS)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_is_recognised_by_its_own_format_alone(name):
    assert [known for known in FORMATS if FORMATS[known].recognises(GOLDEN / name)] == [name.split("/")[0]]


WRITES = {
    "sparsify/layers.2.mlp": ("blocks.2.mlp.hook_in", "blocks.2.hook_mlp_out"),
    "sparsify/layers.1.mlp": ("blocks.1.hook_mlp_out", None),
    "saelens/transcoder": ("blocks.1.hook_resid_post", None),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_transcoder_reads_what_goes_into_a_module_and_writes_what_comes_out(name):
    origin = find_foreign(GOLDEN / name).origin
    assert (origin.hook, origin.target_hook) == WRITES[name]


SAID = {
    "saelens/topk": ("tiny", "blocks.1.hook_resid_post", False),
    "saelens/old_standard": ("tiny", "blocks.1.hook_resid_post", True),
    "sparsify/layers.1": ("tiny", "blocks.1.hook_resid_post", None),
    "sparsify/layers.1.mlp": ("tiny", "blocks.1.hook_mlp_out", None),
    "dictionary_learning/BatchTopKSAE": ("tiny", "blocks.1.hook_resid_post", None),
    "llama_scope/relu": (None, "blocks.1.hook_resid_post", None),
    "gemma_scope/layer_1": (None, None, True),
}


@pytest.mark.parametrize("name", SAID)
def test_model_hook_and_first_token_are_what_the_files_say(name):
    origin = find_foreign(GOLDEN / name).origin
    assert (origin.model, origin.hook, origin.prepend_bos) == SAID[name]
