"""Features of a dictionary: the table, one feature, its neighbours."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query

from saelab.features.table_page import MAX_LIMIT, Filters
from saelab.records import Feature, FeaturePage, Neighbour
from saelab.values import value
from saelab_server.deps import FeaturesDep, IndexDep

router = APIRouter(prefix="/models/{model}/sources/{source}/features", tags=["features"])

_Share = Annotated[float | None, Query(ge=0, le=1)]


SortColumn = Literal["index", "density", "max", "mean", "score", "lift"]
"""Columns by which the table can be sorted."""


@value
class TableQuery:
    """Which rows of the table, in which order, from where."""

    sort: Annotated[SortColumn, Query(description="Column to sort by; rows without a value come last.")] = "index"
    descending: Annotated[bool, Query(description="Largest first.")] = False
    q: Annotated[str, Query(max_length=200, description="Words that the label or the tokens hold.")] = ""
    dead: Annotated[bool | None, Query(description="Only features that never fired, or only those that did.")] = None
    labelled: Annotated[bool | None, Query(description="Only features for which a rule was found, or only those without.")] = None
    min_density: Annotated[_Share, Query(description="Smallest share of tokens on which it fires.")] = None
    max_density: Annotated[_Share, Query(description="Largest share of tokens on which it fires.")] = None
    min_lift: Annotated[float | None, Query(allow_inf_nan=False, description="Smallest lift of the label's score.")] = None
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
        min_lift=query.min_lift,
    )
    return features.page(filters, sort=query.sort, descending=query.descending, cursor=query.cursor, limit=query.limit)


@router.get("/{index}")
def get_feature(features: FeaturesDep, index: IndexDep) -> Feature:
    """All about one feature."""
    return features.feature(index)


@router.get("/{index}/neighbours")
def neighbours_feature(features: FeaturesDep, index: IndexDep) -> tuple[Neighbour, ...]:
    """Features with the closest decoder directions."""
    return features.neighbours(index)
