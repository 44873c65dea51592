"""Sources: the dictionaries of all runs."""

from typing import Annotated

from fastapi import APIRouter, Query

from saelab.describe import read_log
from saelab.records import FeatureMap, LogRow, Source
from saelab_server.deps import FeaturesDep, SourceDep, StateDep

router = APIRouter(tags=["sources"])


@router.get("/sources")
def list_sources(state: StateDep) -> list[Source]:
    """All dictionaries, those still in training too."""
    return [source for run in state.runs() for source in run.sources]


@router.get("/models/{model}/sources/{source}")
def get_source(source: SourceDep) -> Source:
    """One dictionary with its quality."""
    return source


@router.get("/models/{model}/sources/{source}/log")
def log_source(
    source: SourceDep, state: StateDep, after: Annotated[int, Query(description="Only rows of later steps than this.")] = -1
) -> list[LogRow]:
    """The training log, also while training goes on: ask again with the last step seen."""
    return read_log(state.folder(source).path, after)


@router.get("/models/{model}/sources/{source}/map")
def map_source(features: FeaturesDep) -> FeatureMap:
    """Where the features lie on a plane, those with close decoder directions close, and what to colour them by: an array each."""
    return features.map()
