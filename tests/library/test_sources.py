"""Sources from end to end on the toy world: conversations, token ids, single heads, another subject's dictionary."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from folders import SOURCE, copied, small
from safetensors.torch import save_file

from saelab import recipes, stages
from saelab.activations.capture import CaptureConfig
from saelab.corpus import Corpus
from saelab.errors import Invalid
from saelab.lab import Lab, prompt_tokens
from saelab.records import Intervention, SteerRequest
from saelab.run import Run
from saelab.saes.topk import TopK
from saelab.steering import steer
from saelab.subject import SubjectConfig
from saelab.texts.chats import Chats
from saelab.texts.tokens import Tokens
from saelab.texts.toy import ToyTexts
from saelab.weights import cache_folder

ASSISTANT = ("bos", "special", "system", "user", "tool", "template")
"""All kinds but what the assistant says."""


@pytest.fixture(scope="module")
def chats(tmp_path_factory) -> Chats:
    file = tmp_path_factory.mktemp("chats") / "talks.jsonl"
    talks = [
        [{"role": "user", "content": f"tell me about the {document.domain}."}, {"role": "assistant", "content": document.text[:150]}]
        for document in ToyTexts(num_documents=200).documents()
    ]
    file.write_text("\n".join(map(json.dumps, talks)))
    return Chats(paths=(file,))


@pytest.fixture(scope="module")
def chat_run(chats: Chats, tmp_path_factory) -> Run:
    """A small run on conversations of which only the assistant's words count."""
    recipe = small()
    run = Run(tmp_path_factory.mktemp("runs") / "chats")
    stages.read(run, replace(recipe.read, context=64, uncounted=ASSISTANT), chats)
    _trained(run, *recipe.capture.hooks)
    return run


def _trained(run: Run, *hooks: str) -> list[Lab]:
    """Captures some hooks of a run that has been read, trains a dictionary on each, and collects its features."""
    recipe, sources = small(), [f"on-{number}" for number in range(len(hooks))]
    stages.capture(run, replace(recipe.capture, hooks=hooks))
    for hook, source in zip(hooks, sources, strict=True):
        stages.train(run, replace(recipe.train, hook=hook, source=source), TopK.Config(d_sae=24, k=4))
        stages.collect(run, recipe.collect, source)
    return [Lab(run, source) for source in sources]


def test_only_what_the_assistant_says_is_captured(chat_run: Run):
    lab = Lab(chat_run)
    assert lab.corpus.num_windows == lab.corpus.num_documents == 200
    assert not lab.policy.prepend_bos, "the template writes its own"
    for chunk in lab.store.chunks():
        kinds = {lab.corpus.window_kinds(w)[p] for w, p in zip(chunk.window.tolist()[:200], chunk.position.tolist()[:200], strict=True)}
        assert kinds == {"assistant"}
    assert lab.dictionary.provenance.uncounted == ASSISTANT


def test_steering_follows_the_kinds_that_count(chat_run: Run):
    lab = Lab(chat_run)
    ids, counted = prompt_tokens(lab.subject, lab.policy, "tell me about the ship.", chat=True)
    assert ids.count(lab.subject.bos_id) == 1
    assert not any(counted), "a prompt holds nothing that the assistant says"
    assert any(prompt_tokens(lab.subject, lab.policy, "the ship was wet.")[1])
    change = Intervention(feature=0, op="add", strength=20, unit="raw")
    assert steer(lab, SteerRequest(prompt="tell me about the ship.", chat=True, interventions=(change,), max_tokens=8)).dose > 0


def test_a_chat_prompt_has_one_beginning_token_where_windows_begin_with_one(toy_run: Run):
    lab = Lab(toy_run)
    lab.__dict__["corpus"] = Corpus(
        replace(lab.policy, prepend_bos=True), [lab.corpus.document(0)], lab.corpus.document_tokens(0), torch.tensor([0, 60]).numpy()
    )
    assert prompt_tokens(lab.subject, lab.policy, "the ship.", chat=True)[0].count(lab.subject.bos_id) == 1
    assert prompt_tokens(lab.subject, lab.policy, "the ship.")[0][0] == lab.subject.bos_id


def test_conversations_longer_than_the_context_are_counted(chats: Chats, tmp_path: Path):
    run = Run(tmp_path / "run")
    stages.read(run, stages.ReadConfig(subject=SubjectConfig(model="toy"), context=16), chats)
    facts = run.need("read").facts
    assert facts["cut_documents"] == 200
    assert facts["num_windows"] == 200


def test_a_context_beyond_the_subjects_is_noted(tmp_path: Path):
    run = Run(tmp_path / "run")
    stages.read(run, stages.ReadConfig(subject=SubjectConfig(model="toy"), context=1000), ToyTexts(num_documents=8))
    assert run.need("read").facts["context"] == Corpus.open(run.corpus).policy.context == 64


def test_ids_give_the_same_corpus_as_the_text_they_were_made_of(toy_run: Run, tmp_path: Path):
    corpus = Corpus.open(toy_run.corpus)
    file = tmp_path / "ids.jsonl"
    rows = [{"input_ids": corpus.document_tokens(number).tolist()} for number in range(corpus.num_documents)]
    file.write_text("\n".join(map(json.dumps, rows)))
    run = Run(tmp_path / "run")
    stages.read(run, recipes.toy().read, Tokens(paths=(file,), tokenizer="toy"))
    again = Corpus.open(run.corpus)
    assert all((again.document_tokens(i) == corpus.document_tokens(i)).all() for i in range(corpus.num_documents))
    with pytest.raises(Invalid, match=r"the tokenizer of org/gpt-x, and the subject is toy.*--texts.tokenizer toy"):
        stages.read(Run(tmp_path / "other"), recipes.toy().read, Tokens(paths=(file,), tokenizer="org/gpt-x"))
    file.write_text('{"input_ids": [1, 2, 3, 100000]}')
    with pytest.raises(Invalid, match="made with another tokenizer"):
        stages.read(Run(tmp_path / "other"), recipes.toy().read, Tokens(paths=(file,)))


def test_single_heads_and_updates_are_captured_in_one_pass_trained_on_and_steered(tmp_path: Path):
    recipe, run = small(), Run(tmp_path / "run")
    stages.read(run, recipe.read, recipe.texts)
    head, update = _trained(run, "blocks.1.attn.hook_z.2", "blocks.1.hook_update")
    assert head.dictionary.d_in == head.subject.d_model // 4
    assert update.dictionary.d_in == update.subject.d_model
    for lab in (head, update):
        stages.evaluate(run, recipe.evaluate, lab.source)
        change = Intervention(feature=0, op="add", strength=5, unit="raw")
        assert steer(lab, SteerRequest(prompt="the captain", interventions=(change,), max_tokens=4)).dose > 0


def _fine_tuned(folder: Path) -> Path:
    """A LoRA of the toy subject."""
    folder.mkdir()
    config = json.loads((cache_folder() / "models" / "toy" / "config.json").read_text())
    width = config["hidden_size"]
    noise = torch.Generator().manual_seed(0)
    name = "base_model.model.model.layers.0.mlp.down_proj"
    inner = config["intermediate_size"]
    tensors = {
        f"{name}.lora_A.weight": torch.randn(1, inner, generator=noise),
        f"{name}.lora_B.weight": torch.randn(width, 1, generator=noise),
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 1}))
    return folder


def test_a_base_models_dictionary_works_on_a_fine_tuned_model(toy_run: Run, tmp_path: Path):
    recipe = small()
    subject = SubjectConfig(model="toy", adapter=str(_fine_tuned(tmp_path / "pirate")))
    run = Run(tmp_path / "run")
    stages.read(run, replace(recipe.read, subject=subject), recipe.texts)
    stages.capture(run, CaptureConfig(hooks=recipe.capture.hooks))
    folder = run.source(SOURCE).path
    folder.mkdir(parents=True)
    for name in ("cfg.json", "sae_weights.safetensors", "train.json"):
        shutil.copy(toy_run.source(SOURCE).path / name, folder / name)
    stages.evaluate(run, recipe.evaluate)
    stages.collect(run, recipe.collect)
    for stage in ("evaluate", "collect"):
        facts = run.source(SOURCE).need(stage).facts
        assert (facts["model"], facts["trained_on"]) == ("toy-pirate", "toy")
    lab = Lab(run)
    change = Intervention(feature=0, op="add", strength=5, unit="raw")
    assert steer(lab, SteerRequest(prompt="the captain", interventions=(change,), max_tokens=4)).dose > 0
    here = lab.subject.activations(torch.tensor([[5, 6, 7]]), [lab.hook])[lab.hook]
    assert not torch.allclose(here, Lab(toy_run).subject.activations(torch.tensor([[5, 6, 7]]), [lab.hook])[lab.hook])


def test_a_dictionary_of_another_width_is_refused(toy_run: Run, tmp_path: Path):
    run = copied(toy_run, tmp_path / "run")
    wide = "blocks.1.mlp.hook_post"
    stages.capture(run, replace(recipes.toy().capture, hooks=(wide,)))
    shutil.rmtree(run.activations("blocks.1.hook_resid_post"))
    run.activations(wide).rename(run.activations("blocks.1.hook_resid_post"))
    with pytest.raises(Invalid, match=r"reads \d+ values at blocks.1.hook_resid_post, where the run's subject has"):
        _ = Lab(run).store


def test_names_of_dictionaries_are_short():
    names = {hook: stages.source_name(hook, "topk") for hook in ("blocks.3.attn.hook_z.2", "blocks.3.hook_update", "hook_embed")}
    assert names == {
        "blocks.3.attn.hook_z.2": "3-attn-z-2-topk",
        "blocks.3.hook_update": "3-update-topk",
        "hook_embed": "embed-topk",
    }
