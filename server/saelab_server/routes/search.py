"""Search over all dictionaries: by words, or by meaning."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from saelab.errors import NotFound, unknown
from saelab.records import FeatureId, SearchHit, Source
from saelab_server.deps import StateDep
from saelab_server.state import State

router = APIRouter(tags=["search"])

SearchMode = Literal["words", "meaning"]
"""How features are found: by words of the label and the tokens, or by what the label means."""


@router.get("/search")
def features_search(
    state: StateDep,
    q: Annotated[str, Query(min_length=1, max_length=200, description="Words of a label or of the tokens.")],
    limit: Annotated[int, Query(ge=1, le=100, description="Features a dictionary at most.")] = 20,
    mode: Annotated[
        SearchMode,
        Query(description="By words, best first within each dictionary; or by the meaning of labels that were embedded, closest first."),
    ] = "words",
    model: Annotated[str | None, Query(description="Id of a subject: search only its dictionaries.")] = None,
    source: Annotated[str | None, Query(description="Name of a dictionary: search only in it.")] = None,
) -> list[SearchHit]:
    """Features whose label or tokens hold the words, or whose label means something alike."""
    collected = [source for run in state.runs() for source in run.sources if "collect" in source.stages]
    sources = [one for one in collected if model in (None, one.model) and source in (None, one.source)]
    if collected and not sources:
        raise unknown("dictionary", f"{model or '*'}/{source or '*'}", (f"{one.model}/{one.source}" for one in collected))
    if mode == "meaning":
        return _by_meaning(state, sources, q, limit)
    return [
        SearchHit(id=FeatureId(model=source.model, source=source.source, index=row.index), row=row)
        for source in sources
        for row in state.features(source).search(q, limit)
    ]


def _by_meaning(state: State, sources: list[Source], q: str, limit: int) -> list[SearchHit]:
    vector = state.embed(q)
    hits: list[SearchHit] = []
    missing: NotFound | None = None
    for source in sources:
        try:
            found = state.features(source).search_meaning(vector, limit)
        except NotFound as error:  # not embedded; said only where no dictionary was
            missing = error
            continue
        hits += [
            SearchHit(id=FeatureId(model=source.model, source=source.source, index=row.index), row=row, similarity=cosine)
            for row, cosine in found
        ]
    if missing is not None and not hits:
        raise missing
    return sorted(hits, key=lambda hit: -(hit.similarity or 0))
