"""Baselines as dictionaries of a run: fitted, measured and collected like any other."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import copied, names

from saelab import stages
from saelab.activations.buffer import BufferConfig
from saelab.activations.shuffle import first_rows
from saelab.activations.vectors import VECTORS, Vectors
from saelab.analyses.quality import EvaluateConfig
from saelab.baselines.diff_mean import DiffMean
from saelab.baselines.ica import ICA
from saelab.baselines.itda import ITDA
from saelab.baselines.neurons import Neurons
from saelab.baselines.pca import PCA
from saelab.baselines.probe import Probe
from saelab.baselines.random import Random
from saelab.cli import COMMANDS, main
from saelab.describe import describe_source
from saelab.dictionary import DICTIONARIES, Trainable
from saelab.errors import Conflict, Invalid, NotFound
from saelab.features.collect import CollectConfig
from saelab.fits import FitStage, fit
from saelab.lab import Lab
from saelab.records import Quality
from saelab.run import Run, read_saved

HOOK, FIRST = "blocks.1.hook_resid_post", "blocks.0.hook_resid_post"
STAGE = FitStage(hook=HOOK, source="fitted", rows=2000)
FITS = {
    "neurons": Neurons.Config(k=4),
    "random": Random.Config(k=4, d_sae=96, seed=1),
    "pca": PCA.Config(k=4),
    "ica": ICA.Config(k=4),
    "itda": ITDA.Config(k=4, d_sae=96, tolerance=0.5),
    "diff_mean": DiffMean.Config(),
    "probe": Probe.Config(),
}
"""Every baseline with some settings."""


@pytest.fixture(scope="module")
def run(toy_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A copy of the toy run with every baseline."""
    run = copied(toy_run, tmp_path_factory.mktemp("fits") / "run")
    for name, config in FITS.items():
        taught = ("law",) if name in {"diff_mean", "probe"} else ()
        fit(run, replace(STAGE, source=f"a-{name}", concept=taught), config)
    return run


def test_all_that_are_not_trained_can_be_fitted():
    assert set(FITS) == {name for name in DICTIONARIES if not issubclass(DICTIONARIES[name], Trainable)}


@pytest.mark.parametrize("name", FITS)
def test_a_baseline_is_a_dictionary_of_the_run_like_any_other(run: Run, name: str):
    lab = Lab(run, f"a-{name}")
    assert lab.dictionary.architecture == describe_source(run, lab.source).architecture == name
    assert lab.origin == Lab(run, "1-res-topk").origin
    stages.evaluate(run, EvaluateConfig(windows=4), lab.source)
    quality = read_saved(Quality, lab.folder.path / "quality.json")
    assert quality.fvu.value < 1.5
    taught = name in {"diff_mean", "probe"}
    assert (quality.concept_auroc is not None) is taught
    assert not taught or quality.concept_document_auroc.value > 0.9


@pytest.mark.parametrize("name", ["pca", "probe"])
def test_a_baseline_is_collected_labelled_and_steered_with(run: Run, name: str):
    stages.collect(run, CollectConfig(), f"a-{name}")
    found = Lab(run, f"a-{name}").features
    assert found.d_sae == (64 if name == "pca" else 1)


def test_a_fit_is_what_fit_makes_of_the_training_rows(run: Run):
    lab = Lab(run, "a-random")
    expected = Random.fit(first_rows(lab.store, 2000, 0), k=4, d_sae=96, seed=1)
    assert torch.equal(lab.dictionary.directions, expected.directions)
    manifest = lab.folder.need("train")
    assert manifest.config["sae"] == {"kind": "random", "k": 4, "d_sae": 96, "seed": 1}
    assert manifest.facts["rows"] == 2000


def test_a_fit_that_is_done_is_left_alone_and_a_changed_one_refused(run: Run):
    file = run.source("a-pca").path / "train.json"
    before = file.read_bytes()
    fit(run, replace(STAGE, source="a-pca"), PCA.Config(k=4))
    assert file.read_bytes() == before
    with pytest.raises(Conflict, match=r"sae\.k: 4, now 5"):
        fit(run, replace(STAGE, source="a-pca"), PCA.Config(k=5))


@pytest.mark.parametrize(
    ("changes", "config", "error", "said"),
    [
        ({}, Probe.Config(), Invalid, "probe is taught a concept: name the domains"),
        ({"concept": ("law",)}, PCA.Config(), Invalid, "pca is taught no concept"),
        ({"concept": ("laws",)}, Probe.Config(), NotFound, "Unknown domain 'laws'. Did you mean law"),
        ({"beside": (FIRST,)}, PCA.Config(), Invalid, "pca reads one hook"),
        ({"target_hook": FIRST}, PCA.Config(), Invalid, "pca writes where it reads"),
        ({"rows": 1}, PCA.Config(), Invalid, "rows is 1"),
        ({}, PCA.Config(k=65), Invalid, "k is 65; it must be between 1 and the number of directions, 64"),
    ],
)
def test_a_fit_that_cannot_be_is_refused_and_leaves_nothing(run: Run, changes: dict, config: object, error: type[Exception], said: str):
    before = names(run.path)
    with pytest.raises(error, match=said):
        fit(run, replace(STAGE, **changes), config)
    assert names(run.path) == before


def test_the_rows_may_be_pooled_or_come_from_a_file_or_from_the_model(run: Run, tmp_path: Path):
    stages.capture_hooks(run, (FIRST,))
    fit(run, replace(STAGE, source="pooled", beside=(FIRST,), pooled=True), PCA.Config(k=4))
    assert Lab(run, "pooled").origin.hooks == (HOOK, FIRST)
    fit(run, replace(STAGE, source="streamed", stream=BufferConfig()), Neurons.Config(k=4))
    assert Lab(run, "streamed").folder.need("train").config["stream"] is not None
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32))
    fit(Run(tmp_path / "bare"), replace(STAGE, hook=VECTORS, vectors=Vectors(file=str(tmp_path / "x.npy"))), PCA.Config(k=2))
    assert Lab(Run(tmp_path / "bare")).dictionary.d_sae == 8


def test_the_command_names_what_it_made(run: Run, capsys: pytest.CaptureFixture[str]):
    main(COMMANDS, ["fit", str(run.path), "baseline:random", "--baseline.d-sae", "40", "--rows", "500"])
    main(COMMANDS, ["fit", str(run.path), "--hook", HOOK, "--concept", "law", "baseline:diff_mean"])
    main(COMMANDS, ["fit", str(run.path), "--baseline.k", "3", "--hook", HOOK])
    assert [Path(line).name for line in capsys.readouterr().out.split()] == ["1-res-random", "1-res-diff_mean", "1-res-pca"]
    assert Lab(run, "1-res-random").dictionary.d_sae == 40
