"""Runs: what lies in the folder."""

from fastapi import APIRouter

from saelab.records import RunSummary
from saelab_server.deps import StateDep

router = APIRouter(tags=["runs"])


@router.get("/runs")
def list_runs(state: StateDep) -> list[RunSummary]:
    """All runs with their dictionaries. A run that cannot be read is listed with its problem."""
    return state.runs()


@router.get("/runs/{run}")
def get_run(run: str, state: StateDep) -> RunSummary:
    """One run with its dictionaries."""
    return state.run(run)
