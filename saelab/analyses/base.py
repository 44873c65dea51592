"""Analyses: questions over a run's dictionary, answered by a report of headline numbers, tables and charts."""

import time
from abc import ABC, abstractmethod
from dataclasses import replace

from saelab.describe import report_file
from saelab.lab import Lab
from saelab.registry import Registry
from saelab.reports import Report
from saelab.run import write_atomically
from saelab.values import to_dict, to_json, value


@value
class Analysis(ABC):
    """Abstract: asks a question. A subclass is a frozen value, its own config, and registers itself in `ANALYSES`.

    It reads the run and changes nothing in it.
    """

    seed: int = 0
    """Seed of every choice and of the bootstrap."""

    @abstractmethod
    def answer(self, lab: Lab) -> Report:
        """The report on the lab's dictionary. Raises `Invalid` or `NotFound` for a run that cannot answer the question."""


ANALYSES: Registry[Analysis] = Registry("analysis", "saelab.analyses")
"""Every analysis by name."""


def analyse(lab: Lab, analysis: Analysis) -> Report:
    """Answers the question and keeps the report in `reports/<analysis>.json` of the dictionary's folder, in the place of an older one."""
    began, name = time.monotonic(), ANALYSES.name_of(type(analysis))
    report = replace(
        analysis.answer(lab),
        analysis=name,
        model=lab.origin.model,
        source=lab.source,
        config=to_dict(analysis),
        trained=lab.folder.need("train").finished,
    )
    report = replace(report, seconds=round(time.monotonic() - began, 3))
    write_atomically(report_file(lab.folder, name), to_json(report))
    return report
