"""The toy world: its subject."""

import re
from pathlib import Path

import pytest
import torch

from saelab.errors import Conflict
from saelab.texts.toy import ToyTexts
from saelab.toy import ToyRecipe, facts, subject_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return subject_folder(tmp_path_factory.mktemp("toy") / "subject")


@pytest.fixture(scope="module")
def tokenizer(folder: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def test_the_subject_learns_far_more_than_how_frequent_words_are(folder: Path):
    assert facts(folder).loss < 0.4 * facts(folder).unigram_entropy


def test_the_subject_is_an_ordinary_folder_that_transformers_loads_and_goes_on_in_its_topic(folder: Path, tokenizer):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model).__name__ == "LlamaForCausalLM"
    inputs = tokenizer("the captain steered the", return_tensors="pt", add_special_tokens=False)
    text = tokenizer.decode(model.generate(**inputs, max_new_tokens=24, do_sample=False)[0])
    assert re.search(r"ship|anchor|rope|mast|harbour|bay", text.removeprefix("the captain steered the"))


def test_tokens_put_together_again_are_the_text(tokenizer):
    for document in ToyTexts(num_documents=16).documents():
        ids = tokenizer(document.text, add_special_tokens=False, verbose=False).input_ids
        assert tokenizer.unk_token_id not in ids
        assert "".join(tokenizer.batch_decode([[token] for token in ids])) == document.text
        assert tokenizer.decode(ids) == document.text


def test_a_chat_is_written_with_special_tokens_that_the_tokenizer_knows(tokenizer):
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "tell me about the ship."}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<bos><user> tell me about the ship.<assistant>"
    tokens = tokenizer.tokenize(text)
    assert tokens == ["<bos>", "<user>", "▁tell", "▁me", "▁about", "▁the", "▁ship", ".", "<assistant>"]
    assert {"<bos>", "<user>", "<assistant>", "<eos>"} <= set(tokenizer.all_special_tokens)


def test_a_made_subject_is_not_made_again_and_another_recipe_makes_another(tmp_path: Path):
    recipe = ToyRecipe(num_documents=24, steps=3)
    first = subject_folder(tmp_path / "toy", recipe) / "model.safetensors"
    time, content = first.stat().st_mtime_ns, first.read_bytes()
    assert subject_folder(tmp_path / "toy", recipe) == tmp_path / "toy"
    assert first.stat().st_mtime_ns == time
    subject_folder(tmp_path / "toy", ToyRecipe(num_documents=24, steps=3, seed=1))
    assert first.read_bytes() != content
    subject_folder(tmp_path / "toy", recipe)
    assert first.read_bytes() == content
    assert [item.name for item in tmp_path.iterdir()] == ["toy"]


def test_making_the_subject_leaves_the_random_state_alone(tmp_path: Path):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    subject_folder(tmp_path / "toy", ToyRecipe(num_documents=24, steps=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(Conflict, match="is not a toy subject"):
        subject_folder(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()
