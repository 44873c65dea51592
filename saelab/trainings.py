"""The commands that make dictionaries from a run's activations: `train`, `sweep` and `fit`."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from saelab import recipes, stages
from saelab.activations.buffer import BufferConfig
from saelab.activations.vectors import VECTORS, Vectors
from saelab.baselines.pca import PCA
from saelab.choices import Fitted, Sae, Texts
from saelab.console import OUT
from saelab.dictionary import DICTIONARIES, Dictionary, Trainable
from saelab.errors import Invalid
from saelab.feeds import Reads, TrainStage, check_hooks
from saelab.fits import FitStage, fit
from saelab.grid import SweepStage, members, sweep
from saelab.run import Run
from saelab.saes.topk import TopK
from saelab.training import TrainConfig
from saelab.values import value


@value
class Supply:
    """Where activations come from. Reads and captures first, where the run has not yet."""

    run: Positional[Path]
    """The run's folder; made if it is not there."""
    model: str | None = None
    """The model, where the run has not been read yet: a Hugging Face directory, a GGUF file, a hub id or a bundled name."""
    beside: tuple[str, ...] = ()
    """Further hooks: a crosscoder reads and writes them side by side with `--hook`; any other dictionary needs `--pooled`."""
    pooled: bool = False
    """Make one dictionary from the rows of `--hook` and of the hooks beside it."""
    concept: tuple[str, ...] = ()
    """Domains whose documents carry the concept that `scar`, `diff_mean` or `probe` is taught."""
    stream: bool = False
    """Read straight from the model, without captured activations on disk."""
    buffer: BufferConfig = BufferConfig()
    """The buffer between model and training, with `--stream`."""
    vectors: str | None = None
    """Use the vectors of this file (.npy, .safetensors, .parquet), without model and text."""
    tensor: str | None = None
    """Name of the tensor or column in it, where it holds more than one."""
    texts: Texts | None = None
    """Where the documents come from, where the run has not been read yet; none for the bundled corpus."""

    def read(self) -> dict[str, Any]:
        """What a `Reading` says beyond the hook, its target and the name."""
        return {
            "beside": self.beside,
            "pooled": self.pooled,
            "concept": self.concept,
            "stream": self.buffer if self.stream else None,
            "vectors": Vectors(file=self.vectors, tensor=self.tensor) if self.vectors else None,
        }

    def prepared(self, hook: str | None, others: Sequence[str]) -> str:
        """Reads and captures what is needed, and gives the hook."""
        if self.vectors:
            return VECTORS
        return recipes.prepared(Run(self.run), self.model, self.texts, hook, others, captured=not self.stream)


@value
class Train(Supply):
    """Trains a dictionary. Reads and captures first, where the run has not yet."""

    hook: str | None = None
    """Where the dictionary reads; none for the residual stream after the middle block."""
    target_hook: str | None = None
    """Where a transcoder writes."""
    source: str | None = None
    """The dictionary's name; none for one made of layer, hook and architecture."""
    epochs: float | None = None
    """Passes over the training activations; none for `--train.steps` optimiser steps."""
    train: TrainConfig = TrainConfig()
    """The trainer."""
    device: str = "auto"
    """Where it is trained: `cpu`, `cuda`, ...; `auto` takes a GPU if there is one."""
    shards: int = 1
    """Of the processes that torchrun started, how many divide the features of the dictionary among themselves; 1: each holds all of them.
    The rows of a batch are divided among the groups of so many processes. docs/scaling.md says what suits when."""
    sae: Sae = TopK.Config()
    """The architecture."""

    def __call__(self) -> None:
        """Does it."""
        run, kind = Run(self.run), stages.architecture_of(self.sae)
        config = TrainStage(
            hook=VECTORS if self.vectors else self.hook or "",
            source=self.source or "",
            target_hook=self.target_hook,
            epochs=self.epochs,
            train=self.train,
            device=self.device,
            **self.read(),
        )
        check_hooks(config, kind)
        config = replace(config, hook=self.prepared(self.hook, Reads.of(config).hooks[1:]))
        source = self.source or stages.usual_source(config, kind)
        stages.train(run, replace(config, source=source), self.sae, self.shards)
        OUT.print(f"{run.path / 'dictionaries' / source}")


@value
class Sweep(Supply):
    """Trains a dictionary for every combination of some settings, in one pass. Reads and captures first, where the run has not yet."""

    hook: tuple[str, ...] = ()
    """Where the dictionaries read; none for the residual stream after the middle block."""
    target_hook: tuple[str, ...] = ()
    """Where transcoders write: for each hook its own, in the same order."""
    k: tuple[int, ...] = ()
    """Values of k."""
    target_l0: tuple[float, ...] = ()
    """Values of target_l0, for architectures that aim at one."""
    d_sae: tuple[int, ...] = ()
    """Numbers of features."""
    lr: tuple[float, ...] = ()
    """Learning rates."""
    seed: tuple[int, ...] = ()
    """Seeds of the weights; the order of the activations is the same for all."""
    vary: tuple[str, ...] = ()
    """Any other field with its values in JSON, such as `auxk=0,0.03125`."""
    also: tuple[str, ...] = ()
    """Further architectures, each at its defaults but for the grid."""
    epochs: float | None = None
    """Passes over the training activations; none for `--train.steps` optimiser steps."""
    train: TrainConfig = TrainConfig()
    """The trainers."""
    device: str = "auto"
    """Where they are trained: `cpu`, `cuda`, ...; `auto` takes a GPU if there is one."""
    sae: Sae = TopK.Config()
    """The architecture."""

    def __call__(self) -> None:
        """Does it."""
        run, saes = Run(self.run), [self.sae, *(_config_of(name) for name in self.also)]
        hooks = (VECTORS,) if self.vectors else self.hook or ("",)
        config = SweepStage(trainings=self._trainings(hooks), grid=self._grid())
        for job, sae in members(config, saes):
            check_hooks(job, stages.architecture_of(sae))
        first = self.prepared(hooks[0] or None, (*hooks[1:], *self.target_hook, *self.beside))
        for source in sweep(run, replace(config, trainings=self._trainings((first, *hooks[1:]))), saes):
            OUT.print(f"{run.path / 'dictionaries' / source}")

    def _trainings(self, hooks: Sequence[str]) -> tuple[TrainStage, ...]:
        targets = self.target_hook or (None,) * len(hooks)
        if len(targets) != len(hooks):
            raise Invalid(f"There are {len(hooks)} hooks and {len(targets)} target hooks. Give each hook its own, in the same order.")
        common: dict[str, Any] = {"epochs": self.epochs, "train": self.train, "device": self.device, **self.read()}
        return tuple(TrainStage(hook=hook, source="", target_hook=to, **common) for hook, to in zip(hooks, targets, strict=True))

    def _grid(self) -> dict[str, tuple[Any, ...]]:
        lists: dict[str, tuple[Any, ...]] = {name: getattr(self, name) for name in ("k", "target_l0", "d_sae", "lr", "seed")}
        return {name: values for name, values in lists.items() if values} | dict(map(_varied, self.vary))


@value
class Fit(Supply):
    """Fits a baseline: neurons, random directions, components, or directions that labels teach. Reads and captures first where need be."""

    hook: str | None = None
    """Where the dictionary reads; none for the residual stream after the middle block."""
    source: str | None = None
    """The dictionary's name; none for one made of layer, hook and baseline."""
    rows: int = FitStage.rows
    """Activations that it is fitted to, at most."""
    baseline: Fitted = PCA.Config()
    """The baseline."""

    def __call__(self) -> None:
        """Does it."""
        run, kind = Run(self.run), stages.architecture_of(self.baseline, Dictionary)
        config = FitStage(hook=VECTORS if self.vectors else self.hook or "", source=self.source or "", rows=self.rows, **self.read())
        check_hooks(config, kind)
        config = replace(config, hook=self.prepared(self.hook, self.beside))
        source = self.source or stages.usual_source(config, kind)
        fit(run, replace(config, source=source), self.baseline)
        OUT.print(f"{run.path / 'dictionaries' / source}")


def _config_of(architecture: str) -> Any:  # noqa: ANN401 - the Config of any trainable dictionary
    kind = DICTIONARIES[architecture]
    if not issubclass(kind, Trainable):
        raise Invalid(f"{architecture} is not trained by gradient descent, so it cannot be part of a sweep. Run: saelab fit")
    return kind.Config()


def _varied(text: str) -> tuple[str, tuple[Any, ...]]:
    """`name=1,2` as a field and its values."""
    name, _, values = text.partition("=")
    try:
        return name, tuple(json.loads(f"[{values}]"))
    except ValueError:
        raise Invalid(f"--vary {text!r} is not a field with values in JSON. Expected such as auxk=0,0.03125.") from None
