"""The command `saelab`: its help, and that it trains, measures and steers."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from folders import SOURCE, copied
from pydantic import TypeAdapter

from saelab import stages
from saelab.activations.capture import CaptureConfig
from saelab.analyses.quality import EvaluateConfig
from saelab.cli import COMMANDS
from saelab.dictionary import load_dictionary
from saelab.exchange import ImportConfig
from saelab.features.collect import CollectConfig
from saelab.records import Quality
from saelab.run import Run, read_saved
from saelab.saes.jumprelu import JumpReLU
from saelab.saes.topk import TopK
from saelab.subject import SubjectConfig
from saelab.texts.files import Files
from saelab.texts.toy import ToyTexts
from saelab.toy import subject_folder
from saelab.training import TrainConfig
from saelab.weights import cache_folder
from saelab_server.settings import Settings

HOOK = "blocks.1.hook_resid_post"


DESCRIBED = {
    "read": (stages.ReadConfig, SubjectConfig),
    "capture": (CaptureConfig,),
    "train": (TrainConfig,),
    "sweep": (TrainConfig,),
    "evaluate": (EvaluateConfig,),
    "collect": (CollectConfig,),
    "firings": (),
    "vectors": (),
    "label": (),
    "score": (),
    "steer": (),
    "import": (ImportConfig,),
    "export": (),
    "make": (),
    "serve": (Settings,),
    "read x texts:files": (Files,),
    "read x texts:toy": (ToyTexts,),
    "train x sae:topk": (TopK.Config,),
    "train x sae:jumprelu": (JumpReLU.Config,),
}
"""Commands, and the configs whose fields their help explains."""


def wordy(text: str) -> str:
    """Letters and digits alone: the help is wrapped and framed."""
    return re.sub(r"[^a-z0-9]+", "", text.lower())


@pytest.mark.parametrize("command", DESCRIBED)
def test_the_help_of_a_command_explains_every_field_of_its_config(saelab, command):
    ended = saelab(*command.split(), "--help")
    assert ended.code == 0
    shown = wordy(ended.out)
    kind = COMMANDS.get(command)
    assert kind is None or wordy(kind.__doc__ or "?") in shown
    for config in DESCRIBED[command]:
        fields = TypeAdapter(config).json_schema()["properties"]
        for name, field in fields.items():
            if "properties" not in field and "$ref" not in field:
                assert wordy(name) in shown, name
                assert wordy(field["description"]) in shown, name


def test_the_help_of_the_program_names_every_command(process):
    ended = process("--help")
    assert (ended.code, ended.err) == (0, "")
    for name, command in COMMANDS.items():
        assert re.search(rf"\b{name}\b", ended.out)
        assert wordy((command.__doc__ or "?").split(".")[0]) in wordy(ended.out)
    assert "serve" in ended.out


SENTENCES = [
    "the captain steered the rusty ship in the harbour. Anna said that the anchor was wet.",
    "was the soup salty? the cook did not know. on monday, Hugo tasted three of the pies.",
    "a distant comet is in the sky, and the astronomer tracked it. there are two moons and four planets in the observatory.",
]


def write_text(kind: str, folder: Path) -> Path:
    """Thirty texts in one file."""
    texts = [" ".join(SENTENCES[(number + step) % 3] for step in range(12)) for number in range(30)]
    file = folder / f"sentences.{kind}"
    if kind == "txt":
        file.write_text("\n\n".join(text for text in texts for _ in range(3)), encoding="utf-8")
    elif kind == "jsonl":
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    else:
        pq.write_table(pa.table({"text": texts}), file)
    return file


@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
def test_train_makes_a_dictionary_from_a_file_of_ones_own(saelab, tmp_path, kind):
    model, file, folder = subject_folder(cache_folder() / "models" / "toy"), write_text(kind, tmp_path), tmp_path / "runs" / "mine"
    flags = ("--train.steps", 20, "--train.batch-size", 64, "--model", model, "--hook", HOOK)
    ended = saelab("train", folder, *flags, "texts:files", "--texts.paths", file, "sae:jumprelu", "--sae.d-sae", 96, "--sae.target-l0", 8)
    assert ended.code == 0, ended.err
    assert ended.out.strip() == str(folder / "dictionaries" / "1-res-jumprelu")
    found = load_dictionary(Path(ended.out.strip()))
    assert (found.architecture, found.d_in, found.d_sae) == ("jumprelu", 64, 96)
    assert found.provenance is not None
    assert (found.provenance.hook, found.provenance.context) == (HOOK, 64)
    assert Run(folder).need("read").facts["domains"].keys() == {"sentences"}
    again = saelab("train", folder, *flags[:4], "--sae.d-sae", 32, "--sae.k", 4)
    assert again.code == 0, again.err
    assert Run(folder).sources() == ["1-res-jumprelu", "1-res-topk"]


def test_sweep_trains_a_grid_at_two_hooks_in_one_pass(saelab, tmp_path):
    run = Run(tmp_path / "run")
    assert saelab("read", run.path, "--model", "toy", "texts:toy", "--texts.num-documents", 40).code == 0
    grid = ("--k", 2, 4, "--seed", 0, 1, "--vary", "auxk=0", "--also", "standard", "--train.steps", 6, "--train.batch-size", 64)
    ended = saelab("sweep", run.path, "--hook", HOOK, "blocks.0.hook_mlp_out", *grid, "sae:topk", "--sae.d-sae", 32)
    assert ended.code == 0, ended.err
    topk = [f"{place}-topk-k{k}-s{seed}-auxk0" for place in ("1-res", "0-mlp") for k in (2, 4) for seed in (0, 1)]
    others = [f"{place}-standard-s{seed}" for place in ("1-res", "0-mlp") for seed in (0, 1)]
    assert {Path(line).name for line in ended.out.split()} == set(run.sources()) == {*topk, *others}
    assert run.need("capture").facts["hooks"] == [HOOK, "blocks.0.hook_mlp_out"]
    refused = saelab("sweep", run.path, "--hook", HOOK, "--vary", "auxkk=0", "sae:topk")
    assert refused.code == 1
    assert "Unknown field in the grid 'auxkk'. Did you mean auxk" in refused.err


def test_train_reads_its_activations_as_the_run_captured_them(saelab, toy_run, tmp_path):
    run = Run(tmp_path / "run")
    assert saelab("read", run.path, "--model", "toy", "texts:toy", "--texts.num-documents", 40).code == 0
    assert saelab("capture", run.path, "--hooks", HOOK, "--dtype", "float32").code == 0
    ended = saelab("train", run.path, "--hook", "blocks.0.hook_mlp_out", "--train.steps", 3, "--train.batch-size", 64)
    assert ended.code == 0, ended.err
    assert run.need("capture").config["dtype"] == "float32"
    assert run.need("capture").facts["hooks"] == [HOOK, "blocks.0.hook_mlp_out"]


def test_evaluate_shows_the_quality_beside_its_controls(saelab, toy_run):
    ended = saelab("evaluate", toy_run.path)
    assert ended.code == 0
    quality = read_saved(Quality, toy_run.source(SOURCE).path / "quality.json")
    assert f"{quality.fvu.value:.4f}" in ended.out
    assert f"[{quality.ce_increase.low:.4f}, {quality.ce_increase.high:.4f}]" in ended.out
    assert "control random" in ended.out
    assert "control pca" in ended.out


def test_a_dictionary_goes_out_to_another_library_and_comes_back(saelab, toy_run, tmp_path):
    ended = saelab("export", toy_run.path, tmp_path / "theirs", "--format", "dictionary_learning")
    assert (ended.code, ended.out.strip()) == (0, str(tmp_path / "theirs"))
    run = copied(toy_run, tmp_path / "run")
    ended = saelab("import", tmp_path / "theirs", run.path, "--source", "back")
    assert (ended.code, ended.out.strip()) == (0, str(run.source("back").path))
    assert load_dictionary(run.source("back").path).d_sae == 256


def test_steer_prints_both_texts(process, toy_run):
    ended = process("steer", toy_run.path, "--prompt", "the captain", "--feature", 3, "--op", "ablate", "--max-tokens", 8)
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert (lines[0], lines[2]) == ("base", "steered")
    assert all(len(lines[place].split()) > 3 for place in (1, 3))
    assert re.fullmatch(r"dose \d\.\d\d, KL \d\.\d\d nats a token, \d+ tokens in \d+\.\d s", lines[4])


@pytest.mark.parametrize(
    ("words", "source", "said"),
    [
        ("--hook blocks.1.hook_resid_mid --target-hook blocks.1.hook_mlp_out sae:transcoder", "1-res-mid-transcoder", "fvu"),
        (f"--hook blocks.0.hook_resid_post --beside {HOOK} sae:crosscoder", "0-res-crosscoder", f"fvu {HOOK}"),
        (f"--hook {HOOK} --beside blocks.0.hook_resid_post --pooled sae:topk", "1-res-pooled-topk", "fvu blocks.0.hook_resid_post"),
    ],
)
def test_several_hooks_are_captured_trained_on_and_measured(saelab, toy_run, tmp_path, words, source, said):
    run = copied(toy_run, tmp_path / "run")
    trained = saelab("train", run.path, "--train.steps", 20, *words.split(), "--sae.d-sae", 64, "--sae.k", 4)
    assert trained.code == 0, trained.err
    assert trained.out.strip().endswith(source)
    measured = saelab("evaluate", run.path, "--source", source, "--windows", 8)
    assert measured.code == 0, measured.err
    assert said in measured.out
