"""The command line: one command a stage, flags read from the configs."""

import ctypes
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from saelab import recipes, stages
from saelab.activations.buffer import BufferConfig
from saelab.activations.capture import CaptureConfig
from saelab.activations.vectors import VECTORS, Vectors
from saelab.analyses.quality import EvaluateConfig
from saelab.choices import Labels, Sae, Scores, Texts
from saelab.console import ERR, OUT
from saelab.errors import Invalid, SaelabError, unknown
from saelab.exchange import Export, Import
from saelab.features.collect import CollectConfig
from saelab.feeds import Reads, TrainStage, check_hooks
from saelab.grid import Sweep
from saelab.lab import Lab
from saelab.labellers.rules import Rules
from saelab.progress import shown
from saelab.questions import Analyse
from saelab.records import Estimate, Intervention, Quality, SteerRequest, Unit
from saelab.run import Run, open_run, read_saved
from saelab.saes.topk import TopK
from saelab.scorers.rule_detection import RuleDetection
from saelab.steering import steer
from saelab.texts.bundled import Bundled
from saelab.training import TrainConfig
from saelab.values import value

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # numbers of <malloc.h>


class Command(Protocol):
    """A command: its fields are its flags."""

    def __call__(self) -> None:
        """Does it."""


@value
class Read:
    """Reads text into token windows."""

    run: Positional[Path]
    """The run's folder; made if it is not there."""
    config: OmitArgPrefixes[stages.ReadConfig] = stages.ReadConfig()
    """How text becomes windows."""
    texts: Texts = Bundled()
    """Where the documents come from."""

    def __call__(self) -> None:
        """Does it."""
        stages.read(Run(self.run), self.config, self.texts)


@value
class Capture:
    """Captures the subject's activations on a run's corpus."""

    run: Positional[Path]
    """The run's folder."""
    config: OmitArgPrefixes[CaptureConfig]
    """What is captured, and how it is stored."""

    def __call__(self) -> None:
        """Does it."""
        stages.capture(open_run(self.run), self.config)


@value
class Train:
    """Trains a dictionary. Reads and captures first, where the run has not yet."""

    run: Positional[Path]
    """The run's folder; made if it is not there."""
    model: str | None = None
    """The model, where the run has not been read yet: a Hugging Face directory, a GGUF file, a hub id or a bundled name."""
    hook: str | None = None
    """Where the dictionary reads; none for the residual stream after the middle block."""
    target_hook: str | None = None
    """Where a transcoder writes."""
    beside: tuple[str, ...] = ()
    """Further hooks: a crosscoder reads and writes them side by side with `--hook`; any other dictionary needs `--pooled`."""
    pooled: bool = False
    """Train one dictionary on the rows of `--hook` and of the hooks beside it."""
    concept: tuple[str, ...] = ()
    """Domains whose documents carry the concept that SCAR is taught."""
    source: str | None = None
    """The dictionary's name; none for one made of layer, hook and architecture."""
    epochs: float | None = None
    """Passes over the training activations; none for `--train.steps` optimiser steps."""
    train: TrainConfig = TrainConfig()
    """The trainer."""
    stream: bool = False
    """Train straight from the model, without captured activations on disk."""
    buffer: BufferConfig = BufferConfig()
    """The buffer between model and training, with `--stream`."""
    vectors: str | None = None
    """Train on the vectors of this file (.npy, .safetensors, .parquet), without model and text."""
    tensor: str | None = None
    """Name of the tensor or column in it, where it holds more than one."""
    device: str = "auto"
    """Where it is trained: `cpu`, `cuda`, ...; `auto` takes a GPU if there is one."""
    texts: Texts | None = None
    """Where the documents come from, where the run has not been read yet; none for the bundled corpus."""
    sae: Sae = TopK.Config()
    """The architecture."""

    def __call__(self) -> None:
        """Does it."""
        run, kind = Run(self.run), stages.architecture_of(self.sae)
        config = TrainStage(
            hook=VECTORS if self.vectors else self.hook or "",
            source=self.source or "",
            target_hook=self.target_hook,
            beside=self.beside,
            pooled=self.pooled,
            concept=self.concept,
            epochs=self.epochs,
            train=self.train,
            device=self.device,
            stream=self.buffer if self.stream else None,
            vectors=Vectors(file=self.vectors, tensor=self.tensor) if self.vectors else None,
        )
        check_hooks(config, kind)
        others = Reads.of(config).hooks[1:]
        hook = VECTORS if self.vectors else recipes.prepared(run, self.model, self.texts, self.hook, others, captured=not self.stream)
        source = self.source or stages.source_name(hook, f"pooled-{kind.architecture}" if self.pooled else kind.architecture)
        stages.train(run, replace(config, hook=hook, source=source), self.sae)
        OUT.print(f"{run.path / 'dictionaries' / source}")


@value
class Evaluate:
    """Measures a dictionary on held-out documents."""

    run: Positional[Path]
    """The run's folder."""
    source: str | None = None
    """The dictionary; not needed where the run has only one."""
    config: OmitArgPrefixes[EvaluateConfig] = EvaluateConfig()
    """How much is measured."""

    def __call__(self) -> None:
        """Does it."""
        run = open_run(self.run)
        stages.evaluate(run, self.config, self.source)
        file = run.find_source(self.source).path / "quality.json"
        _show_quality(read_saved(Quality, file))


@value
class Collect:
    """Collects statistics and examples of every feature in one pass."""

    run: Positional[Path]
    """The run's folder."""
    source: str | None = None
    """The dictionary; not needed where the run has only one."""
    config: OmitArgPrefixes[CollectConfig] = CollectConfig()
    """What is kept."""

    def __call__(self) -> None:
        """Does it."""
        stages.collect(open_run(self.run), self.config, self.source)


@value
class LabelFeatures:
    """Gives every feature a label."""

    run: Positional[Path]
    """The run's folder."""
    source: str | None = None
    """The dictionary; not needed where the run has only one."""
    labeller: Labels = Rules()
    """Who labels."""

    def __call__(self) -> None:
        """Does it."""
        stages.label(open_run(self.run), self.labeller, self.source)


@value
class ScoreLabels:
    """Scores the labels on held-out documents."""

    run: Positional[Path]
    """The run's folder."""
    source: str | None = None
    """The dictionary; not needed where the run has only one."""
    scorer: Scores = RuleDetection()
    """Who scores."""

    def __call__(self) -> None:
        """Does it."""
        stages.score(open_run(self.run), self.scorer, self.source)


@value
class Steer:
    """Writes on from a prompt, plainly and with features changed, side by side."""

    run: Positional[Path]
    """The run's folder."""
    prompt: str
    """The text to go on from."""
    feature: tuple[int, ...]
    """Features to change."""
    strength: tuple[float, ...] = (1.5,)
    """How much: one number for all features, or one for each."""
    op: Literal["add", "clamp", "scale", "ablate"] = "add"
    """What is done to the features; see docs/words.md."""
    unit: Unit = "max_act"
    """How strengths are read: multiples of each feature's largest activation, or bare activations."""
    source: str | None = None
    """The dictionary; not needed where the run has only one."""
    chat: bool = False
    """Put the prompt through the model's chat template."""
    max_tokens: int = 60
    """Tokens to write at most."""
    temperature: float = 0.0
    """0 takes the likeliest token."""
    seed: int = 0
    """Seed of the random numbers."""

    def __call__(self) -> None:
        """Does it."""
        strengths = self.strength * len(self.feature) if len(self.strength) == 1 else self.strength
        if len(strengths) != len(self.feature):
            raise Invalid(
                f"There are {len(self.feature)} features and {len(strengths)} strengths. Give one strength, or one for each feature."
            )
        changes = [
            Intervention(feature=feature, op=self.op, strength=strength, unit=self.unit)
            for feature, strength in zip(self.feature, strengths, strict=True)
        ]
        request = SteerRequest(
            prompt=self.prompt,
            interventions=tuple(changes),
            chat=self.chat,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            seed=self.seed,
        )
        found = steer(Lab(open_run(self.run), self.source), request)
        OUT.print("base", style="bold")
        OUT.print(found.base, markup=False)
        OUT.print("steered", style="bold")
        OUT.print(found.steered, markup=False)
        OUT.print(f"dose {found.dose:.2f}, KL {found.kl:.2f} nats a token, {found.num_tokens} tokens in {found.seconds:.1f} s", style="dim")


@value
class Make:
    """Makes a recipe: every stage, skipping what is done and resuming what is half done."""

    recipe: Positional[str]
    """Name of the recipe: demo, toy."""
    run: Path | None = None
    """The run's folder; none for `runs/<recipe>`."""

    def __call__(self) -> None:
        """Does it."""
        if self.recipe not in recipes.RECIPES:
            raise unknown("recipe", self.recipe, recipes.RECIPES)
        run = Run(self.run or Path("runs") / self.recipe)
        recipes.make(run, recipes.RECIPES[self.recipe]())


COMMANDS: dict[str, type[Command]] = {
    "read": Read,
    "capture": Capture,
    "train": Train,
    "sweep": Sweep,
    "import": Import,
    "evaluate": Evaluate,
    "collect": Collect,
    "label": LabelFeatures,
    "score": ScoreLabels,
    "analyse": Analyse,
    "steer": Steer,
    "export": Export,
    "make": Make,
}
"""The library's commands; the server adds `serve`."""


def main(commands: Mapping[str, type[Command]], args: Sequence[str] | None = None) -> None:
    """Runs the command that the arguments name. A user's error ends it with one paragraph and exit code 1."""
    _keep_freed_memory()
    try:
        command = tyro.extras.subcommand_cli_from_dict(
            dict(commands), prog="saelab", args=args, description="From text to features to steered text."
        )
        with shown():
            command()
    except SaelabError as error:
        ERR.print(f"saelab: {error}", style="red", markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        ERR.print("\nStopped. The same command goes on where it was.")
        sys.exit(130)


def _keep_freed_memory() -> None:
    """Tells the C library to keep what is freed: the next batch needs as much again, and asking Linux anew slows capture by a sixth."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for parameter in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
            mallopt(parameter, 2**30)


def _show_quality(quality: Quality) -> None:
    def line(name: str, found: Estimate) -> str:
        interval = f"  [{found.low:.4f}, {found.high:.4f}]" if found.low is not None and found.high is not None else ""
        return f"{name:<22}{found.value:>10.4f}{interval}"

    names = (
        "fvu",
        "l0",
        "ce_clean",
        "ce_increase",
        "ce_recovered",
        "kl",
        "kl_recovered",
        "dead",
        "dense",
        "concept_auroc",
        "concept_document_auroc",
    )
    OUT.print("\n".join(line(name, found) for name in names if (found := getattr(quality, name)) is not None))
    for hook, fvu in quality.hook_fvu.items():
        OUT.print(f"{'fvu ' + hook:<22}{fvu:>10.4f}")
    for name, fvu in quality.controls.items():
        increase = f", {quality.control_ce_increase[name]:.4f} ce_increase" if name in quality.control_ce_increase else ""
        OUT.print(f"{'control ' + name:<22}{fvu:>10.4f} fvu{increase}")
