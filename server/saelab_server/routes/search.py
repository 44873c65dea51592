"""Search by words over all dictionaries."""

from typing import Annotated

from fastapi import APIRouter, Query

from saelab.records import FeatureId, SearchHit
from saelab_server.deps import StateDep

router = APIRouter(tags=["search"])


@router.get("/search")
def features_search(
    state: StateDep,
    q: Annotated[str, Query(min_length=1, max_length=200, description="Words of a label or of the tokens.")],
    limit: Annotated[int, Query(ge=1, le=100, description="Features a dictionary at most.")] = 20,
) -> list[SearchHit]:
    """Features whose label or tokens hold the words, best first within each dictionary."""
    sources = [source for run in state.runs() for source in run.sources if "collect" in source.stages]
    return [
        SearchHit(id=FeatureId(model=source.model, source=source.source, index=row.index), row=row)
        for source in sources
        for row in state.features(source).search(q, limit)
    ]
