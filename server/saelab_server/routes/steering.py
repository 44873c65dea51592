"""Steered generation, whole or streamed."""

from fastapi import APIRouter, Request

from saelab.records import Completion, SteerRequest, SteerToken
from saelab_server.deps import SessionDep
from saelab_server.streaming import EventStream, events

router = APIRouter(prefix="/models/{model}/sources/{source}/steer", tags=["steering"])


@router.post("")
def complete_steering(session: SessionDep, request: SteerRequest) -> Completion:
    """The plain and the steered text, side by side."""
    session.check(request)
    return session.steer(request)


@router.post("/stream", response_class=EventStream, responses={200: {"model": SteerToken | Completion}})
def stream_steering(session: SessionDep, request: SteerRequest, http: Request) -> EventStream:
    """The same as events: `token` for each token of either text, at the end `completion`, or else `error` with a problem document."""
    session.check(request)
    return EventStream(events(session.stream_steer(request), http.url.path))
