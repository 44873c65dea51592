"""Sweeps as a stage: every combination of some settings, trained in one pass over the activations that they share."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, fields, replace
from itertools import product
from typing import Any

from saelab import stages
from saelab.dictionary import Dictionary, Places
from saelab.errors import Invalid, unknown
from saelab.feeds import Reading, TrainStage
from saelab.run import Run
from saelab.values import from_dict, to_dict, value

Setting = bool | int | float | str | None
"""One value of a field."""
_SHORT = {"d_sae": "d", "expansion": "x", "target_l0": "l", "seed": "s"}
_TAKES: Mapping[Places, tuple[str, ...]] = {"hook": (), "target": ("target_hook",), "hooks": ("beside",), "labelled": ("concept",)}
"""What each kind of architecture takes of a `Reading`, beside the hook."""


@value
class SweepStage:
    """What a sweep trains: one dictionary for each training, each architecture and each combination of the grid."""

    trainings: tuple[TrainStage, ...]
    """What the members have in common, such as one training for each hook. Of its hooks and concept each architecture takes what it is made
    for: a transcoder the target hook, a crosscoder the hooks beside, SCAR the concept. Names begin with its `source`, or, where that is
    empty, with the usual name."""
    grid: dict[str, tuple[Setting, ...]] = field(default_factory=dict)
    """Fields, each with the values that it takes: of the architecture's config, such as `k`, or else of the trainer's, such as `seed`. An
    architecture without a field is trained as if that field were not in the grid."""


def sweep(run: Run, config: SweepStage, saes: Sequence[Any]) -> list[str]:
    """Trains every combination, in `dictionaries/<source>/`, and gives the names, such as `14-res-topk-k32-s0`.

    Each is left with an ordinary manifest of `train`, as if it had been trained alone. Those that are done are left out. Raises what
    `members` and `train` raise.
    """
    jobs = members(config, saes)
    stages.train_together(run, jobs)
    return [job.source for job, _ in jobs]


def members(config: SweepStage, saes: Sequence[Any]) -> list[tuple[TrainStage, Any]]:
    """Every member of a sweep, with its architecture's config.

    Raises `NotFound` naming a field that nothing has, and `Invalid` for values that cannot be, or hooks and concepts that no architecture
    takes.
    """
    known = {name for sae in saes for name in _fields(sae)} | set(_fields(TrainStage.train))
    for name in config.grid:
        if name not in known:
            raise unknown("field in the grid", name, known)
    kinds = [stages.architecture_of(sae) for sae in saes]
    for training in config.trainings:
        _check_used(training, kinds)
    pairs = product(config.trainings, zip(saes, kinds, strict=True))
    return [job for training, (sae, kind) in pairs for job in _jobs(config, _suited(training, kind), sae, kind)]


def _jobs(config: SweepStage, training: TrainStage, sae: Any, kind: type[Dictionary]) -> Iterator[tuple[TrainStage, Any]]:  # noqa: ANN401
    own, trainers = set(_fields(sae)), set(_fields(training.train))
    grid = {name: values for name, values in config.grid.items() if name in own | trainers}
    begins = training.source or stages.usual_source(training, kind)
    for chosen in product(*grid.values()):
        settings = dict(zip(grid, chosen, strict=True))
        train = _changed(training.train, {key: setting for key, setting in settings.items() if key not in own})
        source = "-".join([begins, *(_named(*item) for item in settings.items())])
        yield (
            replace(training, source=source, train=train),
            _changed(sae, {key: setting for key, setting in settings.items() if key in own}),
        )


def _suited(training: TrainStage, kind: type[Dictionary]) -> TrainStage:
    """A training with what a kind of architecture takes of it."""
    taken = ("beside", "pooled") if training.pooled and kind.places == "hook" else _TAKES[kind.places]
    return replace(training, **{each.name: each.default for each in fields(Reading) if each.name in _OPTIONAL and each.name not in taken})


_OPTIONAL = {"pooled", *(name for names in _TAKES.values() for name in names)}


def _check_used(training: TrainStage, kinds: Sequence[type[Dictionary]]) -> None:
    suited = [_suited(training, kind) for kind in kinds]
    for name in sorted(_OPTIONAL):
        if getattr(training, name) and not any(getattr(found, name) for found in suited):
            raise Invalid(
                f"No architecture of the sweep ({', '.join(kind.architecture for kind in kinds)}) takes {name}. Leave it out, or add one "
                "that does: target_hook is for transcoder, beside for crosscoder or pooled rows, concept for scar."
            )


def _fields(item: Any) -> list[str]:  # noqa: ANN401 - any value class
    return [found.name for found in fields(item)]


def _changed(item: Any, settings: dict[str, Setting]) -> Any:  # noqa: ANN401 - any value class
    """A value with some fields changed, checked as if it came from a file."""
    return from_dict(type(item), {**to_dict(item), **settings}) if settings else replace(item)


def _named(name: str, setting: Setting) -> str:
    return f"{_SHORT.get(name, name)}{setting:g}" if isinstance(setting, float) else f"{_SHORT.get(name, name)}{setting}"
