"""A sweep over a run: ordinary dictionaries with ordinary manifests, in one pass, evaluated while they are trained."""

from dataclasses import replace

import pytest
from folders import SOURCE, copied, names, snapshot

from saelab import recipes, stages
from saelab.analyses.quality import EvaluateConfig, evaluate
from saelab.describe import describe_source, read_log
from saelab.dictionary import WEIGHTS_FILE, load_dictionary
from saelab.errors import Conflict, Invalid, NotFound
from saelab.feeds import TrainStage
from saelab.figures import training_curves
from saelab.grid import SweepStage, sweep
from saelab.lab import Lab
from saelab.run import Run
from saelab.saes.jumprelu import JumpReLU
from saelab.saes.topk import TopK
from saelab.training import TrainConfig

HOOK = "blocks.1.hook_resid_post"
TRAIN = TrainConfig(steps=20, batch_size=128, sample=512, log_every=10, lr=1e-3)
SHARES = [f"{kind}_recovered_{baseline}" for kind in ("ce", "kl") for baseline in ("mean", "zero")]
EVALUATED = {f"eval/{name}" for name in ["fvu", "l0", "dead", "dense", "ce_increase", "kl", *SHARES]}


def stage(*hooks: str, **grid) -> SweepStage:
    return SweepStage(trainings=tuple(TrainStage(hook=hook, source="", train=TRAIN) for hook in hooks or (HOOK,)), **grid)


@pytest.fixture(scope="module")
def swept(toy_run, tmp_path_factory) -> Run:
    """A copy of the toy run with a sweep of six dictionaries."""
    run = copied(toy_run, tmp_path_factory.mktemp("swept") / "run")
    grid = {"k": (4, 8), "target_l0": (6.0,), "seed": (0, 1)}
    sweep(run, stage(grid=grid), [TopK.Config(d_sae=96), JumpReLU.Config(d_sae=96)])
    return run


def test_every_combination_is_trained_under_a_name_that_says_it(swept):
    topk = [f"1-res-topk-k{k}-s{seed}" for k in (4, 8) for seed in (0, 1)]
    jumprelu = [f"1-res-jumprelu-l6-s{seed}" for seed in (0, 1)]
    assert set(swept.sources()) == {SOURCE, *topk, *jumprelu}
    assert load_dictionary(swept.source(topk[2]).path).config.k == 8
    manifest = swept.source(topk[3]).need("train")
    assert (manifest.config["train"]["seed"], manifest.config["sae"]["k"], manifest.facts["steps"]) == (1, 8, 20)
    assert describe_source(swept, jumprelu[0]).architecture == "jumprelu"


def test_a_member_is_what_train_would_have_made(swept, tmp_path):
    run = copied(swept, tmp_path / "run")
    name = "1-res-topk-k4-s1"
    made = run.source(name).path
    before = (made / WEIGHTS_FILE).read_bytes()
    (made / "train.json").unlink()
    config = stages.TrainStage(hook=HOOK, source=name, train=replace(TRAIN, seed=1))
    stages.train(run, config, TopK.Config(d_sae=96, k=4))
    assert (made / WEIGHTS_FILE).read_bytes() == before


def test_later_stages_take_a_member_like_any_dictionary(swept, tmp_path):
    run = copied(swept, tmp_path / "run")
    stages.evaluate(run, EvaluateConfig(windows=8), "1-res-jumprelu-l6-s0")
    assert run.source("1-res-jumprelu-l6-s0").need("evaluate").facts["l0"] > 0


def test_a_sweep_that_is_done_changes_nothing_and_a_larger_one_trains_what_is_new(swept, tmp_path):
    run = copied(swept, tmp_path / "run")
    before = snapshot(run.path)
    sweep(run, stage(grid={"k": (4, 8), "seed": (0, 1)}), [TopK.Config(d_sae=96)])
    assert snapshot(run.path) == before
    made = sweep(run, stage(grid={"k": (4,), "seed": (0, 2)}), [TopK.Config(d_sae=96)])
    assert made == ["1-res-topk-k4-s0", "1-res-topk-k4-s2"]
    assert {name: found for name, found in snapshot(run.path).items() if name in before} == before


def test_a_changed_config_is_refused_before_anything_is_trained(swept):
    before = names(swept.path)
    with pytest.raises(Conflict, match=r"sae\.d_sae: 96, now 64"):
        sweep(swept, stage(grid={"k": (5, 4), "seed": (0,)}), [TopK.Config(d_sae=64)])
    assert names(swept.path) == before


@pytest.mark.parametrize(
    ("grid", "error", "words"),
    [
        ({"kk": (1,)}, NotFound, "Unknown field in the grid 'kk'. Did you mean k"),
        ({"k": ("many",)}, Invalid, "k: input should be a valid integer"),
        ({"k": (4, 4)}, Invalid, "Two dictionaries would be named '1-res-topk-k4'"),
        ({"k": (4, 97)}, Invalid, "k is 97; it must be between 1 and the number of features, 96"),
        ({"lr": (-1.0,)}, Invalid, "lr is -1.0; it must be positive"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(toy_run, grid, error, words):
    before = names(toy_run.path)
    with pytest.raises(error, match=words):
        sweep(toy_run, stage(grid=grid), [TopK.Config(d_sae=96)])
    assert names(toy_run.path) == before


def test_the_log_shows_ten_evaluations_on_held_out_documents(swept):
    rows = read_log(swept.source("1-res-topk-k8-s0").path)
    evaluated = [row for row in rows if "eval/fvu" in row.metrics]
    assert [row.step for row in evaluated] == list(range(2, 21, 2))
    assert {name for name in evaluated[-1].metrics if name.startswith("eval/")} == EVALUATED
    assert evaluated[-1].metrics["eval/fvu"] < evaluated[0].metrics["eval/fvu"]
    assert 0 < evaluated[-1].metrics["eval/l0"] <= 8


def test_the_last_evaluation_is_what_evaluate_finds_on_the_same_windows(toy_run):
    quality = evaluate(Lab(toy_run), EvaluateConfig(windows=16))
    last = read_log(toy_run.source(SOURCE).path)[-1].metrics
    assert last["eval/fvu"] == pytest.approx(quality.fvu.value, rel=0.02)
    assert last["eval/l0"] == pytest.approx(quality.l0.value, rel=0.02)
    assert last["eval/kl"] == pytest.approx(quality.kl.value, rel=0.01)
    assert last["eval/ce_increase"] == pytest.approx(quality.ce_increase.value, abs=1e-4)
    assert last["eval/ce_recovered_mean"] == pytest.approx(quality.ce_recovered.value, abs=0.01)
    assert last["eval/kl_recovered_mean"] == pytest.approx(quality.kl_recovered.value, abs=0.01)


def test_the_curves_show_evaluations_as_dotted_marks_in_the_colour_of_the_training(swept):
    figure = training_curves(read_log(swept.source("1-res-topk-k8-s0").path))
    lines = {line.name: line for line in figure.data}
    assert lines["eval/fvu"].mode == "lines+markers"
    assert lines["eval/fvu"].line.dash == "dot"
    assert lines["eval/fvu"].line.color == lines["fvu"].line.color
    assert len(lines["eval/fvu"].x) == 10


def test_hooks_are_swept_together(toy_run, tmp_path):
    run = copied(toy_run, tmp_path / "run")
    other = "blocks.0.hook_mlp_out"
    stages.capture(run, replace(recipes.toy().capture, hooks=(HOOK, other)))
    made = sweep(run, stage(HOOK, other, grid={"k": (4,)}), [TopK.Config(d_sae=64)])
    assert made == ["1-res-topk-k4", "0-mlp-topk-k4"]
    assert [run.source(name).need("train").facts["hook"] for name in made] == [HOOK, other]
