"""The command line: one command a stage, flags read from the configs."""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Literal, NoReturn

from tyro.conf import OmitArgPrefixes, Positional

from saelab import recipes, stages
from saelab.activations.capture import CaptureConfig
from saelab.analyses.quality import EvaluateConfig
from saelab.arguments import Command, parsed
from saelab.choices import Texts
from saelab.console import ERR, OUT
from saelab.devices import keep_freed_memory
from saelab.distributed.job import joined
from saelab.errors import Invalid, SaelabError, unknown
from saelab.exchange import Export, Import
from saelab.findings import Collect, DocumentVectors, FindFirings
from saelab.lab import Lab
from saelab.labelling import Controls, LabelFeatures, ScoreLabels
from saelab.meaning import EmbedLabels
from saelab.progress import shown
from saelab.questions import Analyse
from saelab.records import Estimate, Intervention, Quality, SteerRequest, Unit
from saelab.run import Run, open_run, read_saved
from saelab.steering import steer
from saelab.texts.bundled import Bundled
from saelab.trainings import Fit, Sweep, Train
from saelab.values import value


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
    hook: str | None = None
    """Where the features of a pooled dictionary are read and written; none for where they were collected."""
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
        found = steer(Lab(open_run(self.run), self.source, self.hook), request)
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


_LEADS = os.environ.get("RANK", "0") == "0"
"""Whether this process speaks: torchrun starts several of a job."""
COMMANDS: dict[str, type[Command]] = {
    "read": Read,
    "capture": Capture,
    "train": Train,
    "sweep": Sweep,
    "fit": Fit,
    "import": Import,
    "evaluate": Evaluate,
    "collect": Collect,
    "firings": FindFirings,
    "vectors": DocumentVectors,
    "label": LabelFeatures,
    "score": ScoreLabels,
    "embed": EmbedLabels,
    "controls": Controls,
    "analyse": Analyse,
    "steer": Steer,
    "export": Export,
    "make": Make,
}
"""The library's commands; the server adds `serve`."""


def main(commands: Mapping[str, type[Command]], args: Sequence[str] | None = None) -> None:
    """Runs the command that the arguments name. A user's error ends it with one paragraph: exit code 2 for words that make no command."""
    keep_freed_memory()
    try:
        command = parsed(commands, sys.argv[1:] if args is None else args, shown=_LEADS)
    except SaelabError as error:
        _end(error, 2)
    try:
        with joined() as job, shown() if job.leads else nullcontext():
            if not isinstance(command, (Capture, Train, Sweep, Collect)):
                job.need_alone()
            OUT.quiet = not job.leads
            command()
    except SaelabError as error:
        _end(error, 1)
    except KeyboardInterrupt:
        ERR.print("\nStopped. The same command goes on where it was.")
        sys.exit(130)


def _end(error: SaelabError, code: int) -> NoReturn:
    ERR.print(f"saelab: {error}", style="red", markup=False)
    sys.exit(code)


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
