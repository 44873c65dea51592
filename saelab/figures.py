"""Plotly figures of records: a training run, feature densities, a histogram, the quality of a dictionary, the charts of a report.

Each function takes records and gives a `plotly.graph_objects.Figure`; notebooks show it, the server sends it as JSON, the dashboard draws
that JSON. Backgrounds are transparent and text is a mid grey, so that one figure reads on light and dark pages. Colours are those of Okabe
and Ito, chosen to be told apart by colour-blind readers (https://jfly.uni-koeln.de/color/).
"""

import itertools
import math
from collections.abc import Sequence

import plotly.graph_objects as go

from saelab.records import Histogram, LogRow, Quality
from saelab.reports import Chart, Series

BLUE, ORANGE, GREEN, PURPLE, SKY, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#888888"
"""The colours in the order in which they are used; grey is for controls."""

_GRID = "rgba(136, 136, 136, 0.25)"
_BINS_A_DECADE = 5
_EVALUATED = "eval/"
_EVALUATIONS = ("eval/fvu", "eval/ce_increase")
_NOT_DRAWN = ("lr", "tokens_per_second", "loss", "reconstruction")


def training_curves(rows: Sequence[LogRow]) -> go.Figure:
    """The logged metrics of a training run against the activations seen: a line each, switched on and off in the legend.

    FVU and loss increase on held-out documents are dotted with a mark at each evaluation, in the colour of the training's own. The log
    holds more: the losses that say the same as FVU are not drawn, nor are the other evaluations. Losses, FVU, L0 and dead share differ by
    orders of magnitude, so the vertical axis is logarithmic: a value of 0 leaves a gap.
    """
    logged = sorted({name for row in rows for name in row.metrics if name not in _NOT_DRAWN})
    names = [name for name in logged if name in _EVALUATIONS or not name.startswith(_EVALUATED)]
    figure = _figure("Training", "activations seen", "value, log scale")
    colours = {name: _colour(number) for number, name in enumerate(dict.fromkeys(name.removeprefix(_EVALUATED) for name in names))}
    for name in names:
        seen, evaluated = [row for row in rows if name in row.metrics], name.startswith(_EVALUATED)
        figure.add_scatter(
            x=[row.tokens for row in seen],
            y=[row.metrics[name] if row.metrics[name] > 0 else None for row in seen],
            name=name,
            mode="lines+markers" if evaluated else "lines" if len(seen) > 1 else "markers",
            line={"color": colours[name.removeprefix(_EVALUATED)], "width": 2, "dash": "dot" if evaluated else "solid"},
        )
    figure.update_yaxes(type="log")
    return figure


def densities(shares: Sequence[float]) -> go.Figure:
    """How many features fire how often: a histogram of log10 of the share of tokens on which each fires.

    Features that never fire have no logarithm; they are counted in the title.
    """
    alive = [math.log10(share) for share in shares if share > 0]
    dead = len(shares) - len(alive)
    figure = _figure(f"Feature densities: {len(alive):,} alive, {dead:,} dead", "log10 of the share of tokens", "features")
    if alive:
        first = min(math.floor(min(alive) * _BINS_A_DECADE), -1)
        counts = [0] * -first
        for value in alive:
            counts[min(math.floor(value * _BINS_A_DECADE), -1) - first] += 1
        centres = [(first + number + 0.5) / _BINS_A_DECADE for number in range(len(counts))]
        figure.add_bar(x=centres, y=counts, width=1 / _BINS_A_DECADE, marker={"color": BLUE}, hovertemplate="%{y} features<extra></extra>")
    return figure


def histogram(counts: Histogram) -> go.Figure:
    """A feature's activations where it fires: active tokens by strength, in raw units. Bins are drawn equally wide, as they are chosen."""
    figure = _figure("Activations", "activation", "tokens")
    ends = [f"{edge:.3g}" for edge in counts.edges]
    figure.add_bar(
        x=[number + 0.5 for number in range(len(counts.counts))],
        y=list(counts.counts),
        width=1,
        marker={"color": BLUE},
        customdata=[f"{low} to {high}" for low, high in itertools.pairwise(ends)],
        hovertemplate="%{customdata}: %{y} tokens<extra></extra>",
    )
    every = max(1, len(ends) // 8)
    figure.update_xaxes(tickvals=list(range(0, len(ends), every)), ticktext=ends[::every])
    return figure


def quality(report: Quality) -> go.Figure:
    """The dictionary beside its controls: variance unexplained, and increase of the next-token loss where it was measured."""
    panels = [("FVU", report.fvu.value, report.controls)]
    if report.ce_increase is not None:
        panels.append(("CE increase, nats", report.ce_increase.value, report.control_ce_increase))
    names = ["dictionary", *(name for name in report.controls if all(name in controls for _, _, controls in panels))]
    figure = _figure(f"Quality at L0 = {report.l0.value:.3g}, held-out documents", "", "")
    for number, (title, own, controls) in enumerate(panels, start=1):
        values = [own, *(controls[name] for name in names[1:])]
        figure.add_bar(
            x=names,
            y=values,
            name=title,
            text=[f"{value:.3g}" for value in values],
            marker={"color": [BLUE, *[GREY] * (len(names) - 1)]},
            xaxis=f"x{number}",
            yaxis=f"y{number}",
            showlegend=False,
        )
    axis = {"gridcolor": _GRID, "rangemode": "tozero", "zeroline": False}
    figure.update_layout(xaxis={"domain": [0.0, 0.44]}, yaxis={"title": {"text": panels[0][0]}, **axis})
    if len(panels) > 1:
        right = {"title": {"text": panels[1][0]}, "anchor": "x2", **axis}
        figure.update_layout(xaxis2={"domain": [0.56, 1.0], "anchor": "y2"}, yaxis2=right)
    return figure


def chart(data: Chart) -> go.Figure:
    """A chart of a report: bars or lines with their 95 % intervals, controls in grey."""
    figure = _figure(data.title, data.x, data.y)
    for number, series in enumerate(data.series):
        colour = GREY if series.name.startswith("control") else _colour(number)
        shown = {"x": list(series.x), "y": list(series.y), "name": series.name, "error_y": _whiskers(series)}
        if data.kind == "bar":
            figure.add_bar(**shown, marker={"color": colour})
        else:
            figure.add_scatter(**shown, mode="lines+markers", line={"color": colour, "width": 2})
    return figure


def _whiskers(series: Series) -> dict[str, object] | None:
    """The intervals around the points, as distances."""
    if not series.low:
        return None
    ends = list(zip(series.y, series.low, series.high, strict=True))
    up = [max(0.0, high - y) if y is not None and high is not None else 0.0 for y, _, high in ends]
    down = [max(0.0, y - low) if y is not None and low is not None else 0.0 for y, low, _ in ends]
    return {"type": "data", "array": up, "arrayminus": down, "symmetric": False, "color": GREY, "thickness": 1}


def _colour(number: int) -> str:
    colours = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED)
    return colours[number % len(colours)]


def _figure(title: str, x: str, y: str) -> go.Figure:
    axis = {"gridcolor": _GRID, "zeroline": False, "automargin": True}
    return go.Figure(
        layout={
            "title": {"text": title, "font": {"size": 15}, "x": 0, "xref": "paper", "xanchor": "left"},
            "xaxis": {"title": {"text": x}, **axis},
            "yaxis": {"title": {"text": y}, **axis},
            "font": {"color": GREY, "family": "system-ui, sans-serif", "size": 12},
            "paper_bgcolor": "rgba(0, 0, 0, 0)",
            "plot_bgcolor": "rgba(0, 0, 0, 0)",
            "margin": {"l": 60, "r": 20, "t": 64, "b": 48},
            "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
            "template": "none",
        }
    )
