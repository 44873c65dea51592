"""Reports: what analyses answered about a dictionary."""

from fastapi import APIRouter, Response

from saelab import figures
from saelab.describe import describe_report, read_report, read_reports
from saelab.errors import NotFound
from saelab.reports import Report, ReportSummary
from saelab_server.deps import SourceDep, StateDep
from saelab_server.routes.figures import PlotlyFigure

router = APIRouter(prefix="/models/{model}/sources/{source}/reports", tags=["reports"])


@router.get("")
def list_reports(state: StateDep, source: SourceDep) -> tuple[ReportSummary, ...]:
    """All reports on a dictionary, by name, without their tables and charts; none before the first `saelab analyse`."""
    folder = state.folder(source)
    return tuple(describe_report(report, folder) for report in read_reports(folder))


@router.get("/{name}")
def get_report(state: StateDep, source: SourceDep, name: str) -> Report:
    """One report whole."""
    return read_report(state.folder(source), name)


@router.get("/{name}/charts/{number}", responses={200: {"model": PlotlyFigure}})
def chart_report(state: StateDep, source: SourceDep, name: str, number: int) -> Response:
    """One chart of a report as a figure, by its place among them, from 0."""
    charts = read_report(state.folder(source), name).charts
    if not 0 <= number < len(charts):
        raise NotFound(f"The report {name!r} has {len(charts)} charts, numbered from 0; {number} is none of them.")
    return Response(figures.chart(charts[number]).to_json(), media_type="application/json")
