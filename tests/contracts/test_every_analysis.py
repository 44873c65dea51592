"""What every registered analysis must do."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from folders import SOURCE, copied, snapshot

from saelab import figures, recipes, stages
from saelab.analyses.base import ANALYSES, analyse
from saelab.describe import read_reports
from saelab.errors import Invalid
from saelab.lab import Lab
from saelab.records import Estimate
from saelab.run import Run
from saelab.values import from_json, to_json

LESS = {
    "core": {"rows": 3000, "windows": 12, "fit_rows": 2000},
    "concepts": {"rows": 2000},
    "probing": {"tasks_from": "text", "tasks": 2, "rows": 80, "k": (1, 4)},
    "absorption": {"rows": 4000},
    "description": {"rows": 2000, "bins": (2, 8)},
    "structure": {"steps": 20},
    "senses": {"rows": 20000, "words": 3},
    "stability": {"rows": 2000, "features": 128},
    "scr": {"texts_from": "corpus", "pairs": 2, "rows": 20, "least": 4, "n": (2, 10), "draws": 2},
    "shift": {"texts_from": "corpus", "rows": 40, "least": 4, "wanted": "questions", "unwanted": "domain law", "features": (1, 2)},
    "tpp": {"rows": 20, "least": 4, "n": (2, 10), "draws": 2},
    "unlearning": {"rows": 10000, "n": (2, 8), "times": (0.0, 4.0), "windows": 8, "draws": 1},
}
"""Smaller settings, so that the suite is quick; an analysis without any runs with its defaults."""


NEEDS_NO_TEXT = ("core", "description", "structure", "stability")


@pytest.fixture(scope="module")
def run(toy_run, tmp_path_factory) -> Run:
    """The toy run with a second dictionary of its hook."""
    own, recipe = copied(toy_run, tmp_path_factory.mktemp("analyses") / "run"), recipes.toy()
    stages.train(own, replace(recipe.train, source="again", train=replace(recipe.train.train, seed=1, steps=60)), recipe.sae)
    return own


@pytest.fixture(params=ANALYSES)
def analysis(request):
    return ANALYSES[request.param](**LESS.get(request.param, {}))


def estimates(report) -> list[Estimate]:
    cells = [cell for table in report.tables for row in table.rows for cell in row if isinstance(cell, Estimate)]
    return [*cells, *(one.estimate for one in report.measures), *(one.null for one in report.measures if one.null is not None)]


def test_an_analysis_is_its_own_config(analysis):
    assert from_json(type(analysis), to_json(analysis)) == analysis


def test_it_answers_with_numbers_that_know_how_sure_they_are_and_changes_nothing_else(analysis, run):
    before = {name: found for name, found in snapshot(run.path).items() if not name.endswith(("-wal", "-shm"))}
    report = analyse(Lab(run, SOURCE), analysis)
    after = {name: found for name, found in snapshot(run.path).items() if not name.endswith(("-wal", "-shm"))}
    assert {name for name in after if after[name] != before.get(name)} == {f"dictionaries/{SOURCE}/reports/{report.analysis}.json"}
    assert report.measures
    assert report.question.endswith("?")
    assert (report.model, report.source) == ("toy", SOURCE)
    assert report in read_reports(run.source(SOURCE))
    for one in estimates(report):
        assert math.isfinite(one.value)
        assert one.n > 0
        assert one.low is None or one.low - 1e-9 <= one.value <= one.high + 1e-9
    assert all(len(row) == len(table.columns) for table in report.tables for row in table.rows)
    assert all(len(figures.chart(chart).data) == len(chart.series) for chart in report.charts)
    again = type(analysis)(**vars(analysis)).answer(Lab(run, SOURCE))
    assert again.measures == report.measures
    assert again.tables == report.tables


def test_the_manual_has_every_measure_with_its_null(analysis, run):
    manual = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    report = next(one for one in read_reports(run.source(SOURCE)) if one.analysis == ANALYSES.name_of(type(analysis)))
    named = {re.sub(r"\d+", "N", name) for name in re.findall(r"`(\w+)`", manual)}
    assert {re.sub(r"\d+", "N", one.name) for one in report.measures} - named == set()


def test_bare_vectors_are_refused_in_words_or_answered(analysis, run):
    lab = Lab(run, SOURCE)
    lab.__dict__["vectors"] = type("Vectors", (), {"file": "x.npy"})()
    lab.__dict__["store"] = Lab(run, SOURCE).store
    if type(analysis) in {ANALYSES[name] for name in NEEDS_NO_TEXT}:
        assert analysis.answer(lab).measures
    else:
        with pytest.raises(Invalid, match="no text"):
            analysis.answer(lab)
