"""Plotly figures of a dictionary: the same ones that notebooks draw."""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Response
from plotly.graph_objects import Figure

from saelab import figures
from saelab.describe import read_log
from saelab.errors import NotFound, unknown
from saelab.records import Source
from saelab.values import value
from saelab_server.deps import SourceDep, StateDep
from saelab_server.state import State

router = APIRouter(tags=["figures"])


@value
class PlotlyFigure:
    """A figure in plotly's JSON."""

    data: list[dict[str, Any]]
    """The traces."""
    layout: dict[str, Any]
    """Axes, titles and margins."""


@router.get("/models/{model}/sources/{source}/figures/{name}", responses={200: {"model": PlotlyFigure}})
def get_figure(source: SourceDep, state: StateDep, name: str) -> Response:
    """A figure: `training`, `densities` or `quality`."""
    if name not in _FIGURES:
        raise unknown("figure", name, _FIGURES)
    return Response(_FIGURES[name](state, source).to_json(), media_type="application/json")


def _training(state: State, source: Source) -> Figure:
    return figures.training_curves(read_log(state.folder(source).path))


def _densities(state: State, source: Source) -> Figure:
    return figures.densities(state.features(source).column("density").tolist())


def _quality(_: State, source: Source) -> Figure:
    if source.quality is None:
        raise NotFound(f"{source.model}/{source.source} has no quality yet. Run: saelab evaluate on its run first.")
    return figures.quality(source.quality)


_FIGURES: dict[str, Callable[[State, Source], Figure]] = {"training": _training, "densities": _densities, "quality": _quality}
