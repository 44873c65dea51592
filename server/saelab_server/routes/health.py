"""Whether the service lives, and whether it can work."""

from typing import Literal

from fastapi import APIRouter

from saelab.values import value
from saelab_server.deps import StateDep

router = APIRouter(tags=["health"])


@value
class Health:
    """How the service is."""

    status: Literal["ok"] = "ok"
    """Always `ok`: otherwise the answer is a problem."""


@router.get("/health")
def live_health() -> Health:
    """The process answers."""
    return Health()


@router.get("/ready")
def ready_health(state: StateDep) -> Health:
    """The folder of runs is there."""
    state.runs()
    return Health()
