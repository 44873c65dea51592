"""One page of the feature table: filters, sorting and paging by key, so that a late page costs no more than the first."""

import json
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, exists, func, literal_column, select, tuple_

from saelab.errors import Invalid, unknown
from saelab.features import tables
from saelab.features.words import matching, word_query
from saelab.records import FeaturePage, FeatureRow
from saelab.values import value

MAX_LIMIT = 500
_NONE = 1e300  # beyond any score
_FEW = 4096
"""Up to so many features it is faster to look each up than to go through what is sorted or found."""


@value
class Filters:
    """Which features a page of the table shows."""

    words: str = ""
    """Words that the label or the top tokens must contain; each may be the beginning of one."""
    dead: bool | None = None
    """Only dead features, or only live ones."""
    labelled: bool | None = None
    """Only features whose label states a rule, or only the others."""
    tags: tuple[str, ...] = ()
    """Only features that have every one of these tags."""
    without_tags: tuple[str, ...] = ()
    """Only features that have none of these tags."""
    min_density: float | None = None
    """Smallest share of tokens on which it fires."""
    max_density: float | None = None
    """Largest share of tokens on which it fires."""
    min_score: float | None = None
    """Smallest score of its label; features without a score are left out."""
    max_score: float | None = None
    """Largest score of its label; features without a score are left out."""
    min_lift: float | None = None
    """Smallest lift of its score."""


def page_of(connection: Connection, filters: Filters, sort: str, descending: bool, cursor: str | None, limit: int) -> FeaturePage:
    """The features that pass the filters, sorted, from `cursor` on.

    `sort` is `index`, a column of `tables.SORTS`, a scorer (its headline score of the shown label) or a scorer with `.lift` behind it.
    Raises `Invalid` for a limit or cursor that cannot be right, `NotFound` for an unknown sort.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise Invalid(f"limit must be from 1 to {MAX_LIMIT}, not {limit}.")
    place = _place(cursor)
    conditions, total = _conditions(connection, filters)
    if sort == "index":
        found = _by_index(connection, conditions, descending, place, limit + 1)
    else:
        valued, bare = _numbered(connection, conditions, sort, few=total <= _FEW)
        found = _ranked(connection, valued, bare, descending, place, limit + 1)
    shown = found[:limit]
    following = json.dumps(shown[-1]) if len(found) > limit else None
    return FeaturePage(items=rows_of(connection, [index for _, index in shown]), total=total, next_cursor=following)


def rows_of(connection: Connection, indices: list[int]) -> tuple[FeatureRow, ...]:
    """The table rows of some features, in the order asked for; those that are not there are left out."""
    found = connection.execute(select(tables.features).where(tables.features.c.index.in_(indices))).mappings()
    by_index = {row.index: row for row in map(row_of, found)}
    return tuple(by_index[index] for index in indices if index in by_index)


def row_of(row: RowMapping) -> FeatureRow:
    """The record of a row of the table `features`."""
    return FeatureRow(
        index=row["index"],
        label=row["label"],
        label_found=row["label_found"],
        score=row["score"],
        lift=row["lift"],
        lift_low=row["lift_low"],
        density=row["density"],
        max=row["max"],
        mean=row["mean"],
        dead=row["dead"],
        top_tokens=tuple(json.loads(row["top_tokens"])),
        tags=tuple(json.loads(row["tags"])),
    )


def _conditions(connection: Connection, filters: Filters) -> tuple[list[ColumnElement[bool]], int]:
    """What features must fulfil to pass the filters, and how many do.

    Of words alone the index of words knows by itself how many features have them; where they are few, it leads to them. Else features are
    gone through in the order of the page, and each is looked up among those with the words.
    """
    found, index = _numbers(filters), tables.features.c.index
    query = word_query(connection, filters.words)
    if query is not None:
        words = matching(connection, query).columns(literal_column("feature"))
        among = (index + 0).in_(words)  # a sum cannot be looked up, so the database goes through the features
        if not found:
            total = int(connection.scalar(select(func.count()).select_from(words.subquery())) or 0)
            return [index.in_(words) if total <= _FEW else among], total
        found.append(among)
    elif filters.words.strip():
        found.append(tables.features.c.top_tokens.contains(filters.words.strip(), autoescape=True))
    return found, int(connection.scalar(select(func.count()).select_from(tables.features).where(*found)) or 0)


def _numbers(filters: Filters) -> list[ColumnElement[bool]]:
    """What the filters ask of a feature's own columns."""
    column = tables.features.c
    found = [column.tags.contains(json.dumps(tag), autoescape=True) for tag in filters.tags]
    found += [~column.tags.contains(json.dumps(tag), autoescape=True) for tag in filters.without_tags]
    if filters.dead is not None:
        found.append(column.dead.is_(filters.dead))
    if filters.labelled is not None:
        found.append(func.coalesce(column.label_found, False).is_(filters.labelled))
    # `coalesce` keeps the database on the index that it sorts by, which holds these columns too, rather than on one of a filter's own
    if filters.min_density is not None:
        found.append(func.coalesce(column.density, 0.0) >= filters.min_density)
    if filters.max_density is not None:
        found.append(func.coalesce(column.density, 0.0) <= filters.max_density)
    if filters.min_score is not None:
        found.append(func.coalesce(column.score, -_NONE) >= filters.min_score)
    if filters.max_score is not None:
        found.append(func.coalesce(column.score, _NONE) <= filters.max_score)
    if filters.min_lift is not None:
        found.append(func.coalesce(column.lift, -2.0) >= filters.min_lift)
    return found


def _by_index(
    connection: Connection, conditions: list[ColumnElement[bool]], descending: bool, place: tuple[float | None, int] | None, limit: int
) -> list[tuple[float | None, int]]:
    index = tables.features.c.index
    chosen = select(index).where(*conditions)
    if place is not None:
        chosen = chosen.where(index < place[1] if descending else index > place[1])
    return [(None, number) for number in connection.scalars(chosen.order_by(index.desc() if descending else index).limit(limit))]


def _ranked(
    connection: Connection,
    valued: Select[Any, Any],
    bare: Select[Any, Any],
    descending: bool,
    place: tuple[float | None, int] | None,
    limit: int,
) -> list[tuple[float | None, int]]:
    """Up to `limit` numbers and features after a place: first those with the number sorted by, then those without."""
    rows: list[tuple[float | None, int]] = []
    if place is None or place[0] is not None:
        number, index = valued.selected_columns
        chosen = valued.where(number.is_not(None))
        if place is not None:
            key = tuple_(number, index)
            chosen = chosen.where(key < place if descending else key > place)
        order = (number.desc(), index.desc()) if descending else (number, index)
        rows = [(number, index) for number, index in connection.execute(chosen.order_by(*order).limit(limit))]
    if len(rows) < limit:
        number, index = bare.selected_columns
        after = place[1] if place is not None and place[0] is None else -1
        chosen = bare.where(number.is_(None), index > after).order_by(index).limit(limit - len(rows))
        rows += [(None, index) for _, index in connection.execute(chosen)]
    return rows


def _numbered(
    connection: Connection, conditions: list[ColumnElement[bool]], sort: str, few: bool
) -> tuple[Select[Any, Any], Select[Any, Any]]:
    """The numbers to sort by with their features: how to find those that have one, and those that have none.

    A column of `features` has an index to walk down. Scores of one scorer, given to the shown label or to the feature itself, have one too,
    with a look at the feature of each; where few features pass the filters, the score of each is looked up instead. Raises `NotFound` for a
    sort that is not there.
    """
    features, scores = tables.features.c, tables.scores.c
    if sort in tables.SORTS:
        plain = select(tables.SORTS[sort], features.index).where(*conditions)
        return plain, plain
    scorer, _, lift = sort.partition(".")
    if lift not in ("", "lift") or connection.scalar(select(scores.feature).where(scores.scorer == scorer).limit(1)) is None:
        known = list(connection.scalars(select(scores.scorer).distinct()))
        raise unknown("sort", sort, ["index", *tables.SORTS, *known, *(f"{name}.lift" for name in known)])
    number = scores.lift if lift else scores.value
    of_feature = (scores.scorer == scorer, scores.feature == features.index, scores.labeller.in_((features.labeller, "")))
    looked_up = select(number).where(*of_feature).correlate(tables.features).scalar_subquery()
    numbers = select(looked_up.label("number"), features.index).where(*conditions).cte("numbers").prefix_with("MATERIALIZED")
    each = select(numbers.c.number, numbers.c.index)
    if few:
        return each, each
    passing = exists().where(*of_feature[1:], *conditions).correlate(tables.scores)
    return select(number, scores.feature).where(scores.scorer == scorer, passing), each


def _place(cursor: str | None) -> tuple[float | None, int] | None:
    if cursor is None:
        return None
    try:
        number, index = json.loads(cursor)
    except (ValueError, TypeError):
        raise Invalid(f"{cursor!r} is not a cursor. Give the next_cursor of the page before, or none for the first page.") from None
    if not isinstance(index, int) or not isinstance(number, int | float | None):
        raise Invalid(f"{cursor!r} is not a cursor. Give the next_cursor of the page before, or none for the first page.")
    return number, index
