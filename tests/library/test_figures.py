"""Figures of records."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as some

from saelab import figures
from saelab.records import Estimate, Histogram, LogRow, Quality


def row(step: int, **metrics: float) -> LogRow:
    return LogRow(step=step, tokens=step * 100, seconds=float(step), metrics=metrics)


def report(**controls: float) -> Quality:
    one = Estimate(value=0.5, n=10)
    names = ("l0", "ce_clean", "ce_spliced", "ce_mean_ablated", "ce_zero_ablated", "ce_recovered", "kl", "kl_recovered", "dead", "dense")
    return Quality(
        fvu=Estimate(value=0.17, n=10),
        ce_increase=Estimate(value=0.1, n=10),
        controls=controls,
        control_ce_increase={name: 2 * value for name, value in controls.items()},
        **dict.fromkeys(names, one),
    )


def test_training_curves_have_one_line_for_each_metric_and_leave_out_the_learning_rate():
    figure = figures.training_curves([row(1, fvu=0.9, lr=1e-3), row(2, fvu=0.5, lr=1e-3, dead=0.1)])
    assert {line.name: (list(line.x), list(line.y)) for line in figure.data} == {"fvu": ([100, 200], [0.9, 0.5]), "dead": ([200], [0.1])}
    assert figure.layout.yaxis.type == "log"


def test_a_zero_leaves_a_gap_on_the_logarithmic_axis():
    figure = figures.training_curves([row(1, dead=0.2), row(2, dead=0.0), row(3, dead=0.1)])
    assert list(figure.data[0].y) == [0.2, None, 0.1]


def test_a_run_without_rows_gives_an_empty_figure():
    assert len(figures.training_curves([]).data) == 0


@given(some.lists(some.floats(0, 1)))
def test_densities_count_every_feature_once(shares):
    figure = figures.densities(shares)
    dead = sum(share == 0 for share in shares)
    drawn = sum(sum(bars.y) for bars in figure.data)
    assert drawn + dead == len(shares)
    assert f"{dead:,} dead" in figure.layout.title.text


def test_a_density_stands_in_its_own_bin():
    (bars,) = figures.densities([0.01, 1.0]).data
    filled = [(x, y) for x, y in zip(bars.x, bars.y, strict=True) if y]
    assert filled == [(pytest.approx(-1.9), 1), (pytest.approx(-0.1), 1)]


def test_histogram_bars_are_equally_wide_and_say_where_they_end():
    figure = figures.histogram(Histogram(edges=(1.0, 2.0, 4.0), counts=(5, 3)))
    (bars,) = figure.data
    assert (list(bars.x), list(bars.y), list(bars.customdata)) == ([0.5, 1.5], [5, 3], ["1 to 2", "2 to 4"])
    assert list(figure.layout.xaxis.ticktext) == ["1", "2", "4"]


def test_a_histogram_without_bins_is_empty():
    (bars,) = figures.histogram(Histogram(edges=(), counts=())).data
    assert len(bars.x) == 0


def test_quality_stands_beside_the_same_controls_in_both_panels():
    fvu, ce = figures.quality(report(random=0.9, pca=0.6)).data
    assert list(fvu.x) == list(ce.x) == ["dictionary", "random", "pca"]
    assert list(fvu.y) == [0.17, 0.9, 0.6]
    assert list(ce.y) == [0.1, 1.8, 1.2]


@pytest.mark.parametrize(
    "figure",
    [
        figures.training_curves([row(1, fvu=0.9)]),
        figures.densities([0.1]),
        figures.histogram(Histogram(edges=(1.0, 2.0), counts=(5,))),
        figures.quality(report(random=0.9)),
    ],
    ids=["training", "densities", "histogram", "quality"],
)
def test_every_figure_is_json_with_a_transparent_background(figure):
    drawn = json.loads(figure.to_json())
    assert drawn["layout"]["paper_bgcolor"] == drawn["layout"]["plot_bgcolor"] == "rgba(0, 0, 0, 0)"
