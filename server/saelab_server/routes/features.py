"""Features of a dictionary: the table, one feature, its neighbours."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query

from saelab.features.table_page import MAX_LIMIT, Filters
from saelab.records import Feature, FeaturePage, FiringDocuments, Neighbour
from saelab.values import value
from saelab_server.deps import FeaturesDep, IndexDep, SourceDep, StateDep

router = APIRouter(prefix="/models/{model}/sources/{source}/features", tags=["features"])

_Share = Annotated[float | None, Query(ge=0, le=1)]


_Tags = Annotated[tuple[str, ...], Query(max_length=20)]
_Number = Annotated[float | None, Query(allow_inf_nan=False)]


NeighbourKind = Literal["decoder", "encoder", "firing"]
"""By what features are close."""


@value
class TableQuery:
    """Which rows of the table, in which order, from where."""

    sort: Annotated[
        str,
        Query(
            max_length=100,
            description="What to sort by: index, density, max, mean, score, lift, or a scorer's name, alone for its score or with `.lift` "
            "behind it; rows without a value come last.",
        ),
    ] = "index"
    descending: Annotated[bool, Query(description="Largest first.")] = False
    q: Annotated[str, Query(max_length=200, description="Words that the label or the tokens hold.")] = ""
    dead: Annotated[bool | None, Query(description="Only features that never fired, or only those that did.")] = None
    labelled: Annotated[bool | None, Query(description="Only features for which a rule was found, or only those without.")] = None
    min_density: Annotated[_Share, Query(description="Smallest share of tokens on which it fires.")] = None
    max_density: Annotated[_Share, Query(description="Largest share of tokens on which it fires.")] = None
    tag: Annotated[_Tags, Query(description="Tags that a feature must have, all of them.")] = ()
    without_tag: Annotated[_Tags, Query(description="Tags that a feature must not have, any of them.")] = ()
    min_score: Annotated[_Number, Query(description="Smallest score of its label.")] = None
    max_score: Annotated[_Number, Query(description="Largest score of its label.")] = None
    min_lift: Annotated[_Number, Query(description="Smallest lift of the label's score.")] = None
    cursor: Annotated[str | None, Query(max_length=500, description="`next_cursor` of the page before.")] = None
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Rows a page.")] = 50


@router.get("")
def list_features(features: FeaturesDep, query: Annotated[TableQuery, Depends()]) -> FeaturePage:
    """A page of the feature table: sorted, filtered, searched."""
    filters = Filters(
        words=query.q,
        dead=query.dead,
        labelled=query.labelled,
        min_density=query.min_density,
        max_density=query.max_density,
        tags=query.tag,
        without_tags=query.without_tag,
        min_score=query.min_score,
        max_score=query.max_score,
        min_lift=query.min_lift,
    )
    return features.page(filters, sort=query.sort, descending=query.descending, cursor=query.cursor, limit=query.limit)


@router.get("/{index}")
def get_feature(features: FeaturesDep, index: IndexDep) -> Feature:
    """All about one feature."""
    return features.feature(index)


@router.get("/{index}/neighbours")
def neighbours_feature(
    features: FeaturesDep,
    index: IndexDep,
    by: Annotated[NeighbourKind, Query(description="Directions that it writes, directions that it reads, or when it fires.")] = "decoder",
) -> tuple[Neighbour, ...]:
    """The closest features: by cosine of their directions, or by the segments in which both fire."""
    return features.neighbours(index, by)


@router.get("/{index}/documents")
def documents_feature(
    state: StateDep,
    source: SourceDep,
    features: FeaturesDep,
    index: IndexDep,
    cursor: Annotated[str | None, Query(max_length=20, description="`next_cursor` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Documents a page.")] = 10,
) -> FiringDocuments:
    """Documents of the corpus that fire the feature, the strongest activation first. Needs postings: `saelab collect --postings`."""
    return state.documents(source)(index, features.strings, cursor, limit)
