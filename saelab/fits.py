"""Baselines as a stage: fitted to a run's activations, and left there as dictionaries like any other."""

import time
from dataclasses import fields
from typing import Any

from saelab import stages
from saelab.baselines.base import Baseline
from saelab.baselines.supervised import Supervised
from saelab.dictionary import Dictionary, save_dictionary
from saelab.errors import Invalid
from saelab.feeds import Feed, Reading, Reads, check_hooks
from saelab.run import Run
from saelab.values import value


@value
class FitStage(Reading):
    """Which activations a baseline is fitted to."""

    rows: int = 50_000
    """Activations, at most, drawn at random from the documents to train on."""


def fit(run: Run, config: FitStage, baseline: Any) -> None:  # noqa: ANN401 - the Config of any baseline
    """A baseline fitted to the activations of a hook, in `dictionaries/<source>/`, with the manifest of `train`.

    Directions that labels teach are one, for the concept that the domains of `concept` carry. Raises `Invalid` for hooks that do not suit
    the baseline, activations that are not finite or too few, and what `fit` of the baseline raises.
    """
    kind = stages.architecture_of(baseline, Dictionary)
    check_hooks(config, kind)
    folder, described = stages.source_folder(run, config.source), stages.training_config(config, baseline)
    if folder.done("train", described):
        return
    began, feed = time.monotonic(), Feed(run, Reads.of(config))
    if config.rows < 2:
        raise Invalid(f"rows is {config.rows}; a baseline is fitted to two activations at least.")
    rows = feed.sample(config.rows, config.order)
    if not bool(rows.isfinite().all()):
        raise Invalid(f"Some activations of {config.hook} are not finite. Capture them again.")
    settings = {field.name: getattr(baseline, field.name) for field in fields(baseline)}
    if issubclass(kind, Supervised):
        dictionary = kind.fit(rows[:, :-1], rows[:, -1:] > 0, **settings)
    else:
        assert issubclass(kind, Baseline), "what is not trained is fitted"
        dictionary = kind.fit(rows, **settings)
    dictionary.locate(feed.provenance())
    save_dictionary(dictionary, folder.path)
    facts = {
        "architecture": kind.architecture,
        "model": feed.model,
        "hook": config.hook,
        "d_in": dictionary.d_in,
        "d_sae": dictionary.d_sae,
        "rows": len(rows),
    }
    folder.finish("train", described, facts, began)
