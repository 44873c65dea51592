"""Reports in a terminal."""

import io

import pytest
from rich.console import Console

from saelab import questions
from saelab.records import Estimate
from saelab.reports import Report, Table

COLUMNS = ("concept", "tokens", "feature", "sign", "auroc", "random", "neurons", "p holm", "p bh", "label")


def estimate(value):
    return Estimate(value=value, low=value - 0.05, high=value + 0.05, n=10)


def row(name):
    numbers = (estimate(0.9812), estimate(0.612), estimate(0.8549), 3e-7, 0.0312)
    return (name, 12_345, 131_071, "+", *numbers, "in [red] and “Tuesday”, in dates of letters")


@pytest.fixture
def shown(monkeypatch):
    def lines(table):
        out = io.StringIO()
        monkeypatch.setattr(questions, "OUT", Console(file=out, width=80, highlight=False, soft_wrap=True))
        questions.show(Report(question="which?", measures=(), tables=(table,)))
        return out.getvalue().splitlines()

    return lines


def test_a_table_with_many_columns_keeps_a_row_to_one_line_of_80_characters(shown):
    lines = shown(Table(title="concepts", columns=COLUMNS, rows=(row("names of months and of days"), row("digits"))))
    assert max(len(line) for line in lines) <= 80
    assert len(lines) == 6
    assert all(name in lines[2] for name in COLUMNS)
    for number in ("12345", "131071", "0.98", "0.61", "0.85", "<.001", "0.031"):
        assert number in lines[4]
    assert "…" in lines[4]
    assert "in [red]" in lines[4], "words in brackets are no markup"


def test_a_narrow_table_shows_intervals_and_whole_texts(shown):
    told = "\n".join(shown(Table(title="few", columns=("concept", "auroc"), rows=(("names of months and of days", estimate(0.9812)),))))
    assert "names of months and of days" in told
    assert "0.9812 [0.931, 1.03]" in told
