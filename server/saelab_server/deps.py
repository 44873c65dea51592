"""What handlers ask for, by annotation: a signature says what a route needs."""

from typing import Annotated

from fastapi import Depends, Path, Request

from saelab.features.store import FeatureStore
from saelab.records import Source
from saelab_server.session import Session, check_range
from saelab_server.state import State


def _state(request: Request) -> State:
    return request.app.state.saelab


StateDep = Annotated[State, Depends(_state)]
"""The service's state."""


def _source(
    state: StateDep,
    model: Annotated[str, Path(description="Id of the subject.")],
    source: Annotated[str, Path(description="Name of the dictionary.")],
) -> Source:
    return state.source(model, source)


SourceDep = Annotated[Source, Depends(_source)]
"""The dictionary that the path names."""


def _features(state: StateDep, source: SourceDep) -> FeatureStore:
    return state.features(source)


FeaturesDep = Annotated[FeatureStore, Depends(_features)]
"""The stored features of that dictionary."""


def _session(state: StateDep, source: SourceDep) -> Session:
    return Session(state, source)


SessionDep = Annotated[Session, Depends(_session)]
"""Work on that dictionary with the model."""


def _index(source: SourceDep, index: Annotated[int, Path(description="Row of the dictionary's decoder, from 0.")]) -> int:
    check_range(source, [index])
    return index


IndexDep = Annotated[int, Depends(_index)]
"""The feature that the path names, within range."""
