"""Recipes: a config for every stage. A recipe is a function; a variation calls one and replaces a field."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from saelab import labels, stages
from saelab.activations.capture import CaptureConfig
from saelab.analyses.quality import EvaluateConfig
from saelab.distributed.job import current
from saelab.errors import Conflict
from saelab.features.collect import CollectConfig
from saelab.labellers.base import Labeller
from saelab.labellers.rules import Rules
from saelab.run import Run
from saelab.saes.topk import TopK
from saelab.scorers.base import Scorer
from saelab.scorers.rule_detection import RuleDetection
from saelab.subject import SubjectConfig
from saelab.texts.base import TextSource
from saelab.texts.bundled import Bundled
from saelab.texts.toy import ToyTexts
from saelab.training import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything from text to scored labels."""

    read: stages.ReadConfig
    """Subject and windows."""
    texts: TextSource
    """Where the documents come from."""
    capture: CaptureConfig
    """Hooks."""
    train: stages.TrainStage
    """Training."""
    sae: Any
    """The `Config` of the dictionary."""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    """Quality."""
    collect: CollectConfig = field(default_factory=CollectConfig)
    """Features."""
    labeller: Labeller = field(default_factory=Rules)
    """Who labels."""
    scorer: Scorer = field(default_factory=RuleDetection)
    """Who scores the labels."""


def demo() -> Recipe:
    """SmolLM2-135M-Instruct on the bundled corpus: a TopK SAE on the residual stream after block 14. About ten minutes on two cores."""
    hook = "blocks.14.hook_resid_post"
    return Recipe(
        read=stages.ReadConfig(subject=SubjectConfig(model="smollm2-135m-instruct")),
        texts=Bundled(),
        capture=CaptureConfig(hooks=(hook,)),
        train=stages.TrainStage(hook=hook, source="14-res-topk", epochs=4, train=TrainConfig(batch_size=2048, lr=2e-3)),
        sae=TopK.Config(d_sae=4608, k=32),
    )


def toy() -> Recipe:
    """The toy world: a tiny model on sentences with known topics. Under a minute; what the tests and the notebook run on."""
    hook = "blocks.1.hook_resid_post"
    return Recipe(
        read=stages.ReadConfig(subject=SubjectConfig(model="toy"), context=32),
        texts=ToyTexts(),
        capture=CaptureConfig(hooks=(hook,)),
        train=stages.TrainStage(hook=hook, source="1-res-topk", train=TrainConfig(steps=600, batch_size=512, lr=1e-3)),
        sae=TopK.Config(d_sae=256, k=8),
    )


RECIPES: Mapping[str, Callable[[], Recipe]] = {"demo": demo, "toy": toy}
"""Every recipe, by name."""


def make(run: Run, recipe: Recipe) -> None:
    """Every stage of a recipe: skips what is done, resumes what is half done, refuses a changed config naming the field."""
    source = recipe.train.source
    stages.read(run, recipe.read, recipe.texts)
    stages.capture(run, recipe.capture)
    stages.train(run, recipe.train, recipe.sae)
    stages.evaluate(run, recipe.evaluate, source)
    stages.collect(run, recipe.collect, source)
    labels.label(run, recipe.labeller, source)
    labels.score(run, recipe.scorer, source)


def prepared(
    run: Run, model: str | None, texts: TextSource | None, hook: str | None, others: Sequence[str] = (), captured: bool = True
) -> str:
    """Reads and captures what a training needs, where the run has not yet, and gives the hook.

    Arguments:
    - `model`: the model of a run that has not been read; none for the default one, or for the run's.
    - `texts`: where its documents come from; none for the bundled corpus, or for the run's.
    - `hook`: where the dictionary shall read; none for `middle_hook`.
    - `others`: further hooks that are needed.
    - `captured`: whether activations are needed; a training straight from the model needs none.

    Raises `Conflict` for a model or texts that are not those that the run was read with.
    """
    current().led(lambda: _read(run, model, texts))
    hook = hook or middle_hook(run)
    if captured:
        stages.capture_hooks(run, (hook, *others))
    return hook


def _read(run: Run, model: str | None, texts: TextSource | None) -> None:
    done = run.manifest("read")
    if done is None:
        subject = SubjectConfig(model=model) if model else SubjectConfig()
        stages.read(run, stages.ReadConfig(subject=subject), texts or Bundled())
    elif texts is not None or model not in {None, done.config["subject"]["model"]}:
        raise Conflict(
            f"{run.path} has already been read, with the model {done.config['subject']['model']!r}. Leave out --model and texts to "
            "train on it, or use another run folder."
        )


def middle_hook(run: Run) -> str:
    """The residual stream after the middle block of a run's subject; or the hook that has been captured, where there is just one."""
    captured = run.manifest("capture")
    if captured is not None and len(captured.facts["hooks"]) == 1:
        return captured.facts["hooks"][0]
    return f"blocks.{(stages.run_subject(run).num_layers - 1) // 2}.hook_resid_post"
