"""The command that asks an analysis about a dictionary, and shows what it answers."""

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table as Grid
from rich.text import Text
from tyro.conf import OmitArgPrefixes, Positional

from saelab.analyses.base import analyse
from saelab.analyses.core import Core
from saelab.choices import Question
from saelab.console import OUT
from saelab.interop.saebench import write_saebench
from saelab.lab import Lab
from saelab.records import Estimate
from saelab.reports import Cell, Report, Table
from saelab.run import open_run
from saelab.values import value

_NARROW = 7
"""Columns up to which a table shows intervals and whole texts."""
_ROWS = 40
"""Rows of a table that are shown; the file has them all."""


@value
class Analyse:
    """Asks an analysis about a dictionary; the report is kept in `reports/` of the dictionary's folder."""

    run: Positional[Path]
    """The run's folder."""
    source: str | None = None
    """The dictionary; not needed where the run has only one."""
    saebench: Path | None = None
    """A folder for the same results in SAEBench's layout."""
    saebench_strict: bool = False
    """Write -1 where a number is missing, as SAEBench itself does; null otherwise."""
    question: OmitArgPrefixes[Question] = Core()
    """What is asked."""

    def __call__(self) -> None:
        """Does it."""
        lab = Lab(open_run(self.run), self.source)
        report = analyse(lab, self.question)
        show(report)
        OUT.print(f"{lab.folder.path / 'reports' / report.analysis}.json", style="dim")
        if self.saebench is not None:
            OUT.print(str(write_saebench(report, lab.dictionary, self.saebench, strict=self.saebench_strict)), style="dim")


def show(report: Report) -> None:
    """Writes a report to the terminal."""
    OUT.print(report.question + (" (experimental)" if report.experimental else ""), style="bold")
    if report.measures:
        grid = Grid("measure", "value", "null", "n")
        for one in report.measures:
            null = "" if one.null is None else f"{_shown(one.null)}  {one.null_is}"
            grid.add_row(one.name, _shown(one.estimate), null, f"{one.estimate.n:,}")
        OUT.print(grid)
    for table in report.tables:
        OUT.print(_grid(table))
    for note in report.notes:
        OUT.print(note, markup=False)


def _grid(table: Table) -> Grid:
    """A table for the terminal. Where it has many columns a row keeps to one line: texts give way to numbers, and end in an ellipsis."""
    if whole := len(table.columns) <= _NARROW:
        grid = Grid(*table.columns, title=table.title)
    else:
        grid = Grid(title=table.title, box=SIMPLE_HEAD, padding=0, show_edge=False)
        for number, name in enumerate(table.columns):
            texts = any(isinstance(row[number], str) for row in table.rows)
            grid.add_column(name, no_wrap=not texts, justify="left" if texts else "right")
    for row in table.rows[:_ROWS]:
        grid.add_row(*(Text(_shown(cell, whole), no_wrap=not whole, overflow=None if whole else "ellipsis") for cell in row))
    return grid


def _shown(cell: Cell, whole: bool = True) -> str:
    """A cell as text; in a table with many columns without intervals, and rounded to what a glance takes in."""
    if isinstance(cell, Estimate):
        interval = f" [{cell.low:.3g}, {cell.high:.3g}]" if whole and cell.low is not None and cell.high is not None else ""
        return f"{cell.value:.{4 if whole else 2}g}{interval}"
    if isinstance(cell, float):
        return "<.001" if 0 < cell < 1e-3 and not whole else f"{cell:.{3 if whole else 2}g}"
    return "" if cell is None else str(cell)
