"""The commands that say what features mean, how well that holds, and what luck would give: `label`, `score`, `controls`."""

from pathlib import Path

from tyro.conf import OmitArgPrefixes, Positional

from saelab import labels
from saelab.analyses.coverage import ControlsConfig
from saelab.choices import Labels, Scores
from saelab.console import OUT
from saelab.labellers.rules import Rules
from saelab.run import open_run
from saelab.scorers.rule_detection import RuleDetection
from saelab.values import value


@value
class LabelFeatures:
    """Gives every feature a label."""

    run: Positional[Path]
    """The run's folder."""
    source: str | None = None
    """The dictionary; not needed where the run has only one."""
    features: tuple[int, ...] = ()
    """Only these features; none for all."""
    preview: bool = False
    """Say what it will cost with a labeller that asks an endpoint, and do nothing."""
    labeller: Labels = Rules()
    """Who labels."""

    def __call__(self) -> None:
        """Does it."""
        labels.label(open_run(self.run), self.labeller, self.source, self.features, self.preview)


@value
class ScoreLabels:
    """Scores the labels on held-out documents."""

    run: Positional[Path]
    """The run's folder."""
    source: str | None = None
    """The dictionary; not needed where the run has only one."""
    by: str | None = None
    """The labeller whose labels are scored; none for the one that labelled last."""
    features: tuple[int, ...] = ()
    """Only these features; none for all."""
    preview: bool = False
    """Say what it will cost with a scorer that asks an endpoint, and do nothing."""
    scorer: Scores = RuleDetection()
    """Who scores."""

    def __call__(self) -> None:
        """Does it."""
        labels.score(open_run(self.run), self.scorer, self.source, self.by, self.features, self.preview)


@value
class Controls:
    """Shows for how many features a label holds, beside random directions and neurons that go through the same stages."""

    run: Positional[Path]
    """The run's folder."""
    source: str | None = None
    """The dictionary; not needed where the run has only one."""
    config: OmitArgPrefixes[ControlsConfig] = ControlsConfig()
    """How much is measured."""

    def __call__(self) -> None:
        """Does it."""
        measured = labels.controls(open_run(self.run), self.config, self.source)
        OUT.print(f"{'':<10}{'alive':>8}{'labelled':>10}{'proven':>8}{'interval':>16}{'auroc':>8}{'lift':>8}")
        for name, found in measured.items():
            interval = f"[{found.proven.low or 0:.3f}, {found.proven.high or 0:.3f}]"
            shares = f"{found.labelled.value:>10.3f}{found.proven.value:>8.3f}{interval:>16}{found.score:>8.3f}{found.lift:>8.3f}"
            OUT.print(f"{name:<10}{found.alive:>8,}{shares}", markup=False, highlight=False)
