"""Reports: what an analysis answers, as values that are saved, sent and drawn."""

from dataclasses import field
from typing import Any, Literal

from saelab.records import Estimate
from saelab.values import value

Cell = str | bool | int | float | Estimate | None
"""What a place of a table may hold."""


@value
class Measure:
    """A headline number of a report, beside what it would be with nothing found."""

    name: str
    """What it is, such as `explained_variance`; docs/evaluation.md has its formula."""
    estimate: Estimate
    """The number with its interval and n."""
    null: Estimate | None = None
    """The same measure of a null; none where there is none."""
    null_is: str = ""
    """What the null is, such as `random directions at the same L0`."""


@value
class Table:
    """A table of a report."""

    title: str
    """What it shows."""
    columns: tuple[str, ...]
    """Heads of the columns."""
    rows: tuple[tuple[Cell, ...], ...]
    """The rows, each as long as `columns`."""


@value
class Series:
    """Points of a chart that belong together."""

    name: str
    """How the legend calls them."""
    x: tuple[str | float, ...]
    """Places on the horizontal axis."""
    y: tuple[float | None, ...]
    """Heights; none leaves a gap."""
    low: tuple[float | None, ...] = ()
    """Lower ends of the 95 % intervals; empty without."""
    high: tuple[float | None, ...] = ()
    """Upper ends of the 95 % intervals; empty without."""


@value
class Chart:
    """A figure of a report, as data; `saelab.figures.chart` draws it."""

    title: str
    """What it shows."""
    kind: Literal["bar", "line"]
    """Bars side by side, or lines with marks."""
    x: str
    """Title of the horizontal axis."""
    y: str
    """Title of the vertical axis."""
    series: tuple[Series, ...]
    """What is drawn; names that begin with `control` are grey."""


@value
class Report:
    """The answer of an analysis to its question about a dictionary."""

    analysis: str = ""
    """Registered name of the analysis, such as `concepts`."""
    question: str
    """What was asked."""
    model: str = ""
    """Id of the subject."""
    source: str = ""
    """Name of the dictionary."""
    experimental: bool = False
    """True where the measure is known to be unreliable: never choose a dictionary by it alone."""
    measures: tuple[Measure, ...]
    """The headline numbers."""
    tables: tuple[Table, ...] = ()
    """The details."""
    charts: tuple[Chart, ...] = ()
    """The figures."""
    notes: tuple[str, ...] = ()
    """What was left out and why, and what the reader must know."""
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    """The analysis' own config."""
    trained: str = ""
    """When the dictionary's training finished: a report of an earlier one is out of date."""
    seconds: float = 0.0
    """How long it took."""


@value
class ReportSummary:
    """A report without its tables and charts."""

    analysis: str
    """Registered name of the analysis."""
    question: str
    """What was asked."""
    experimental: bool
    """True where the measure is known to be unreliable."""
    measures: tuple[Measure, ...]
    """The headline numbers."""
    notes: tuple[str, ...]
    """What was left out and why, and what the reader must know."""
    current: bool
    """False where the dictionary was trained anew since: the report is of the one before."""
    seconds: float
    """How long it took."""
