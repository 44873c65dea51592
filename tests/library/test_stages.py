"""The stages: done once, done again for nothing, refused when changed, resumed when killed, clean on a full disk."""

import multiprocessing
import signal
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from folders import SOURCE, copied, full_disk, make_small, names, small, snapshot

from saelab import labels, recipes, stages
from saelab.activations.disk import DiskStore
from saelab.errors import Conflict, Invalid, NotFound
from saelab.features.collect import CollectConfig
from saelab.features.store import FeatureStore
from saelab.labellers.rules import Rules
from saelab.run import SOURCE_STAGES, Run
from saelab.scorers.rule_detection import RuleDetection

HOOK = "blocks.1.hook_resid_post"
TOY = recipes.toy()

CALLS = {
    "read": lambda run, recipe: stages.read(run, recipe.read, recipe.texts),
    "capture": lambda run, recipe: stages.capture(run, recipe.capture),
    "train": lambda run, recipe: stages.train(run, recipe.train, recipe.sae),
    "evaluate": lambda run, recipe: stages.evaluate(run, recipe.evaluate),
    "collect": lambda run, recipe: stages.collect(run, recipe.collect),
    "label": lambda run, recipe: labels.label(run, recipe.labeller),
    "score": lambda run, recipe: labels.score(run, recipe.scorer),
}
"""Each stage of a recipe."""

CHANGED = {
    "context": ("read", replace(TOY, read=replace(TOY.read, context=16))),
    "texts.num_documents": ("read", replace(TOY, texts=replace(TOY.texts, num_documents=401))),
    "massive": ("capture", replace(TOY, capture=replace(TOY.capture, massive=None))),
    "train.steps": ("train", replace(TOY, train=replace(TOY.train, train=replace(TOY.train.train, steps=601)))),
    "sae.k": ("train", replace(TOY, sae=replace(TOY.sae, k=9))),
    "windows": ("evaluate", replace(TOY, evaluate=replace(TOY.evaluate, windows=7))),
    "top": ("collect", replace(TOY, collect=CollectConfig(top=3))),
    "price": ("label", replace(TOY, labeller=Rules(price=0.5))),
    "nulls": ("score", replace(TOY, scorer=RuleDetection(nulls=3))),
}
"""A recipe that differs from the toy run in one field of one stage."""


@pytest.fixture(scope="module")
def small_run(tmp_path_factory) -> Run:
    """A finished small run, made without a break; not to be changed."""
    path = tmp_path_factory.mktemp("small") / "run"
    before = torch.get_num_threads()
    make_small(path)
    torch.set_num_threads(before)
    return Run(path)


def rows(database: Path) -> dict[str, list[tuple]]:
    """Every row of a feature store, those of the word index aside."""
    with closing(sqlite3.connect(database)) as opened:
        tables = [name for (name,) in opened.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'words%'")]
        return {name: opened.execute(f'SELECT * FROM "{name}" ORDER BY 1, 2').fetchall() for name in tables}


def assert_same(a: Run, b: Run) -> None:
    """Two runs hold the same corpus, activations, weights, features, labels and scores."""
    for name in ("corpus/tokens.safetensors", f"activations/{HOOK}/00001.safetensors", f"dictionaries/{SOURCE}/sae_weights.safetensors"):
        assert (a.path / name).read_bytes() == (b.path / name).read_bytes(), name
    left, right = (rows(run.source(SOURCE).path / "features.db") for run in (a, b))
    assert {"labels", "scores", "examples"} <= left.keys()
    for table, found in left.items():
        assert found == right[table], table
    assert (a.source(SOURCE).path / "quality.json").read_bytes() == (b.source(SOURCE).path / "quality.json").read_bytes()


def test_a_finished_stage_called_again_changes_no_file(toy_run, tmp_path):
    run = copied(toy_run, tmp_path / "run")
    before = snapshot(run.path)
    recipes.make(run, TOY)
    assert snapshot(run.path) == before


@pytest.mark.parametrize("field", CHANGED)
def test_a_changed_config_is_refused_with_the_name_of_the_field(toy_run, field):
    stage, recipe = CHANGED[field]
    folder = toy_run.source(SOURCE) if stage not in {"read", "capture"} else toy_run
    before = {name: (folder.path / name).read_bytes() for name in ("read.json", "train.json") if (folder.path / name).is_file()}
    with pytest.raises(Conflict, match=rf"(?s){field}: .*, now .*[Uu]se another run folder"):
        CALLS[stage](toy_run, recipe)
    assert {name: (folder.path / name).read_bytes() for name in before} == before


def test_a_refused_stage_leaves_every_file_as_it_was(toy_run, tmp_path):
    run = copied(toy_run, tmp_path / "run")
    before = snapshot(run.path)
    for stage, recipe in CHANGED.values():
        with pytest.raises(Conflict):
            CALLS[stage](run, recipe)
    assert snapshot(run.path) == before


def test_capturing_a_second_hook_keeps_the_first(small_run, tmp_path):
    run = copied(small_run, tmp_path / "run")
    before = snapshot(run.activations(HOOK))
    other = "blocks.0.hook_mlp_out"
    stages.capture(run, replace(small().capture, hooks=(other,)))
    assert snapshot(run.activations(HOOK)) == before
    manifest = run.need("capture")
    assert manifest.facts["hooks"] == manifest.config["hooks"] == [HOOK, other]
    assert manifest.facts["num_rows"].keys() == {HOOK, other}
    assert DiskStore(run.activations(other)).hook == other
    after = snapshot(run.path)
    stages.capture(run, replace(small().capture, hooks=(HOOK, other)))
    stages.capture(run, small().capture)
    assert snapshot(run.path) == after


@pytest.mark.parametrize(
    ("stage", "missing", "command"),
    [
        ("capture", "read", "saelab read RUN"),
        ("train", "read", "saelab read RUN"),
        ("train", "capture", "saelab capture RUN"),
        ("evaluate", "train", "saelab train RUN"),
        ("evaluate", "dictionaries", "saelab train RUN"),
        ("collect", "train", "saelab train RUN"),
        ("label", "collect", "saelab collect RUN"),
        ("score", "label", "saelab label RUN"),
    ],
)
def test_a_stage_without_its_predecessor_says_which_command_to_run(small_run, tmp_path, stage, missing, command):
    run = copied(small_run, tmp_path / "run")
    source = run.source(SOURCE).path
    if missing == "dictionaries":
        source.rename(tmp_path / "elsewhere")
    else:
        (run.path / f"{missing}.json" if missing in {"read", "capture"} else source / f"{missing}.json").unlink()
        (source / f"{stage}.json").unlink(missing_ok=True)
    if stage == "capture":
        (run.path / "capture.json").unlink()
    before = names(run.path)
    with pytest.raises(NotFound, match=command.replace("RUN", str(run.path))):
        CALLS[stage](run, small())
    assert names(run.path) == before


MOMENTS = (
    "corpus/documents.jsonl",
    f"activations/{HOOK}/00001.safetensors",
    f"activations/{HOOK}/index.json",
    f"dictionaries/{SOURCE}/checkpoint.safetensors",
    f"dictionaries/{SOURCE}/sae_weights.safetensors",
    f"dictionaries/{SOURCE}/collect.part.safetensors",
    f"dictionaries/{SOURCE}/features.db.part",
    f"dictionaries/{SOURCE}/features.db-wal",
    f"dictionaries/{SOURCE}/label.json",
)
"""Files whose appearance is the moment of a kill."""


def test_a_run_killed_at_every_stage_and_made_again_ends_as_one_that_was_not(small_run, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["folders", "transformers.models.llama.modeling_llama"])
    run = Run(tmp_path / "run")
    for moment in MOMENTS:
        process = context.Process(target=make_small, args=(run.path,))
        process.start()
        deadline = time.monotonic() + 60
        while not (run.path / moment).exists():
            assert process.is_alive(), f"the run ended before {moment} was there"
            assert time.monotonic() < deadline
            time.sleep(0.0005)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert run.source(SOURCE).manifest("score") is None
    make_small(run.path)
    assert_same(run, small_run)
    assert not [name for name in names(run.path) if ".part" in name or ".tmp" in name]


def test_on_a_full_disk_every_stage_stops_with_a_way_out_and_leaves_nothing_half_written(small_run, tmp_path):
    run, recipe = Run(tmp_path / "run"), small()
    for stage, call in CALLS.items():
        before = {name for name in names(run.path)}
        with full_disk(), pytest.raises(Conflict, match="(?i)cannot write .*free space"):
            call(run, recipe)
        assert {Path(name).name for name in names(run.path) - before} <= {"corpus", "activations", HOOK, "dictionaries", SOURCE}, stage
        call(run, recipe)
    assert_same(run, small_run)


def test_a_log_that_cannot_be_written_stops_training_with_a_way_out(small_run, tmp_path):
    run, recipe = copied(small_run, tmp_path / "run"), small()
    train = replace(recipe.train, source="other", train=replace(recipe.train.train, checkpoint_every=60.0))
    with full_disk(100), pytest.raises(Conflict, match=r"(?i)cannot write .*log\.jsonl.*free space"):
        stages.train(run, train, recipe.sae)


def test_a_run_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Conflict, match="(?i)cannot write"):
        stages.read(Run(tmp_path / "file" / "run"), small().read, small().texts)
    assert names(tmp_path) == {"file"}


def test_windows_are_never_longer_than_the_subject_reads(tmp_path):
    run = Run(tmp_path / "run")
    stages.read(run, replace(small().read, context=1000), small().texts)
    corpus = stages.Corpus.open(run.corpus)
    assert corpus.policy.context == corpus.window_length.max() == 64


def test_another_dictionary_in_the_run_must_be_named(small_run, tmp_path):
    run, recipe = copied(small_run, tmp_path / "run"), small()
    stages.train(run, replace(recipe.train, source="other"), replace(recipe.sae, k=4))
    with pytest.raises(NotFound, match=f"2 dictionaries .*{SOURCE}, other.*--source"):
        stages.evaluate(run, recipe.evaluate)
    stages.evaluate(run, recipe.evaluate, "other")
    assert run.source("other").need("evaluate").facts["l0"] <= 4


@pytest.mark.parametrize("name", ["", "..", "a/b", "../../elsewhere", "a b", ".hidden"])
def test_a_name_that_is_no_folder_of_the_run_is_refused(small_run, name):
    with pytest.raises(Invalid, match="name"):
        stages.train(small_run, replace(small().train, source=name), small().sae)


@pytest.mark.parametrize("field", ["top", "explain", "select", "score", "width", "batch", "checkpoint", "before", "pool", "seed"])
def test_a_collection_that_cannot_be_is_refused_by_the_name_of_its_field(small_run, tmp_path, field):
    run = copied(small_run, tmp_path / "run")
    (run.source(SOURCE).path / "collect.json").unlink()
    before = names(run.path)
    with pytest.raises(Invalid, match=f"{field} is -1"):
        stages.collect(run, replace(CollectConfig(), **{field: -1}))
    assert names(run.path) == before


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"hooks": ()}, "hooks must name"),
        ({"hooks": (HOOK, HOOK)}, "none twice"),
        ({"batch_tokens": 0}, "batch_tokens"),
        ({"shard_windows": 0}, "shard_windows"),
        ({"massive": 0.0}, "massive is 0.0"),
    ],
)
def test_a_capture_that_cannot_be_is_refused(small_run, tmp_path, fields, words):
    run = copied(small_run, tmp_path / "run")
    (run.path / "capture.json").unlink()
    with pytest.raises(Invalid, match=words):
        stages.capture(run, replace(small().capture, **fields))


@pytest.mark.parametrize(
    ("hook", "name"),
    [("blocks.14.hook_resid_post", "14-res-topk"), ("blocks.0.hook_mlp_out", "0-mlp-topk"), ("blocks.3.attn.hook_z", "3-attn-z-topk")],
)
def test_a_dictionary_is_named_after_layer_place_and_architecture(hook, name):
    assert stages.source_name(hook, "topk") == name


def test_a_stage_made_anew_takes_the_marks_off_what_rests_on_it(small_run, tmp_path):
    run = copied(small_run, tmp_path / "run")
    folder = run.find_source(None)
    (folder.path / "collect.json").unlink()
    stages.collect(run, small().collect)
    done = {stage for stage in SOURCE_STAGES if folder.manifest(stage)}
    assert done == {"train", "evaluate", "collect"}
    assert FeatureStore(folder.path / "features.db").num_labelled() == 0
