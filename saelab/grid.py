"""Sweeps as a stage and as a command: every combination of some settings, trained in one pass over the activations of each hook."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import field, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from saelab import recipes, stages
from saelab.choices import Sae, Texts
from saelab.console import OUT
from saelab.dictionary import DICTIONARIES, Trainable
from saelab.errors import Invalid, unknown
from saelab.run import Run
from saelab.saes.topk import TopK
from saelab.training import TrainConfig
from saelab.values import from_dict, to_dict, value

Setting = bool | int | float | str | None
"""One value of a field."""
_SHORT = {"d_sae": "d", "expansion": "x", "target_l0": "l", "seed": "s"}


@value
class SweepStage:
    """What a sweep trains: one dictionary for each hook, each architecture and each combination of the grid."""

    hook: tuple[str, ...]
    """Where they read, in TransformerLens names."""
    grid: dict[str, tuple[Setting, ...]] = field(default_factory=dict)
    """Fields, each with the values that it takes: of the architecture's config, such as `k`, or else of the trainer's, such as `seed`. An
    architecture without a field is trained as if that field were not in the grid."""
    epochs: float | None = None
    """Passes over the training activations; none for `train.steps` optimiser steps."""
    order: int = 0
    """Seed of the order in which the activations come, the same for all."""
    train: TrainConfig = TrainConfig()
    """The trainers' settings, but for those in the grid."""
    device: str = "auto"
    """Where they are trained: `cpu`, `cuda`, ...; `auto` takes a GPU if there is one."""


def sweep(run: Run, config: SweepStage, saes: Sequence[Any]) -> list[str]:
    """Trains every combination, in `dictionaries/<source>/`, and gives the names, such as `14-res-topk-k32-s0`.

    Each is left with an ordinary manifest of `train`, as if it had been trained alone. Those that are done are left out. Raises `NotFound`
    naming a field that nothing has, `Invalid` for values that cannot be, and what `train` raises.
    """
    known = {name for sae in saes for name in _fields(sae)} | set(_fields(config.train))
    for name in config.grid:
        if name not in known:
            raise unknown("field in the grid", name, known)
    jobs = [job for hook, sae in product(config.hook, saes) for job in _jobs(config, hook, sae)]
    stages.train_together(run, jobs)
    return [job.source for job, _ in jobs]


def _jobs(config: SweepStage, hook: str, sae: Any) -> Iterator[tuple[stages.TrainStage, Any]]:  # noqa: ANN401 - as in stages.train
    own, trainers = set(_fields(sae)), set(_fields(config.train))
    grid = {name: values for name, values in config.grid.items() if name in own | trainers}
    for chosen in product(*grid.values()):
        settings = dict(zip(grid, chosen, strict=True))
        name = "-".join([stages.source_name(hook, stages.architecture_of(sae).architecture), *(_named(*item) for item in settings.items())])
        train = _changed(config.train, {key: setting for key, setting in settings.items() if key not in own})
        stage = stages.TrainStage(hook=hook, source=name, epochs=config.epochs, order=config.order, train=train, device=config.device)
        yield stage, _changed(sae, {key: setting for key, setting in settings.items() if key in own})


def _fields(item: Any) -> list[str]:  # noqa: ANN401 - any value class
    return [found.name for found in fields(item)]


def _changed(item: Any, settings: dict[str, Setting]) -> Any:  # noqa: ANN401 - any value class
    """A value with some fields changed, checked as if it came from a file."""
    return from_dict(type(item), {**to_dict(item), **settings}) if settings else replace(item)


def _named(name: str, setting: Setting) -> str:
    return f"{_SHORT.get(name, name)}{setting:g}" if isinstance(setting, float) else f"{_SHORT.get(name, name)}{setting}"


@value
class Sweep:
    """Trains a dictionary for every combination of some settings, in one pass. Reads and captures first, where the run has not yet."""

    run: Positional[Path]
    """The run's folder; made if it is not there."""
    hook: tuple[str, ...] = ()
    """Where the dictionaries read; none for the residual stream after the middle block."""
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
    model: str | None = None
    """The model, where the run has not been read yet: a Hugging Face directory, a GGUF file, a hub id or a bundled name."""
    epochs: float | None = None
    """Passes over the training activations; none for `--train.steps` optimiser steps."""
    train: TrainConfig = TrainConfig()
    """The trainers."""
    device: str = "auto"
    """Where they are trained: `cpu`, `cuda`, ...; `auto` takes a GPU if there is one."""
    texts: Texts | None = None
    """Where the documents come from, where the run has not been read yet; none for the bundled corpus."""
    sae: Sae = TopK.Config()
    """The architecture."""

    def __call__(self) -> None:
        """Does it."""
        run, others = Run(self.run), [_config_of(name) for name in self.also]
        lists: dict[str, tuple[Any, ...]] = {name: getattr(self, name) for name in ("k", "target_l0", "d_sae", "lr", "seed")}
        grid = {name: values for name, values in lists.items() if values} | dict(map(_varied, self.vary))
        first = recipes.prepared(run, self.model, self.texts, *self.hook[:1] or (None,), others=self.hook[1:])
        config = SweepStage(hook=(first, *self.hook[1:]), grid=grid, epochs=self.epochs, train=self.train, device=self.device)
        for source in sweep(run, config, [self.sae, *others]):
            OUT.print(f"{run.path / 'dictionaries' / source}")


def _config_of(architecture: str) -> Any:  # noqa: ANN401 - the Config of any trainable dictionary
    kind = DICTIONARIES[architecture]
    if not issubclass(kind, Trainable):
        raise Invalid(f"{architecture} is not trained by gradient descent, so it cannot be part of a sweep.")
    return kind.Config()


def _varied(text: str) -> tuple[str, tuple[Any, ...]]:
    """`name=1,2` as a field and its values."""
    name, _, values = text.partition("=")
    try:
        return name, tuple(json.loads(f"[{values}]"))
    except ValueError:
        raise Invalid(f"--vary {text!r} is not a field with values in JSON. Expected such as auxk=0,0.03125.") from None
