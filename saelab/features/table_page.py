"""One page of the feature table: filters, sorting and paging by key, so that a late page costs no more than the first."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Connection,
    FromClause,
    Integer,
    RowMapping,
    Select,
    exists,
    func,
    literal_column,
    select,
    tuple_,
)

from saelab.errors import Invalid, unknown
from saelab.features import tables
from saelab.features.words import matching, word_query
from saelab.records import FeaturePage, FeatureRow
from saelab.values import value

MAX_LIMIT = 500
_NONE = 1e300  # beyond any score
_FEW = 4096
"""Up to so many features it is faster to look each up than to go through what is sorted."""


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
    place, total = _place(cursor)
    passing = _passing(connection, filters)
    if total is None:
        total = _count(connection, passing)
    if total <= _FEW:
        passing = _listed(connection, passing)
    if sort == "index":
        found = _by_index(connection, passing, descending, place, limit + 1)
    else:
        found = _ranked(connection, _numbered(connection, passing, sort, few=total <= _FEW), descending, place, limit + 1)
    shown = found[:limit]
    following = json.dumps([*shown[-1], total]) if len(found) > limit else None
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


@dataclass(frozen=True)
class _Passing:
    """The features that pass the filters."""

    source: FromClause
    """The table of features; with words, those that the index of words finds, each looked up in it."""
    found: FromClause
    """The same without looking them up."""
    conditions: tuple[ColumnElement[bool], ...]
    """What each must fulfil besides."""
    alone: tuple[ColumnElement[bool], ...]
    """What a feature must fulfil where it is not looked for in `source`."""

    def select(self, *columns: ColumnElement[Any]) -> Select[*tuple[Any, ...]]:
        """Some columns of them."""
        return select(*columns).select_from(self.source).where(*self.conditions)


def _passing(connection: Connection, filters: Filters) -> _Passing:
    found, index = tuple(_numbers(filters)), tables.features.c.index
    query = word_query(connection, filters.words)
    if query is not None:
        words = matching(connection, query).columns(literal_column("feature", Integer))
        with_words = words.subquery("with_words")
        looked_up = with_words.join(tables.features, index == with_words.c.feature)
        return _Passing(looked_up, with_words, found, (*found, index.in_(words)))
    if filters.words.strip():
        found = (*found, tables.features.c.top_tokens.contains(filters.words.strip(), autoescape=True))
    return _Passing(tables.features, tables.features, found, found)


def _count(connection: Connection, passing: _Passing) -> int:
    """How many features pass."""
    counted = passing.select(func.count()) if passing.conditions else select(func.count()).select_from(passing.found)
    return int(connection.scalar(counted) or 0)


def _listed(connection: Connection, passing: _Passing) -> _Passing:
    """The same features by their numbers, so that they are looked for once; for few of them."""
    index = tables.features.c.index
    listed = (index.in_(connection.scalars(passing.select(index)).all()),)
    return _Passing(tables.features, tables.features, listed, listed)


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
    connection: Connection, passing: _Passing, descending: bool, place: tuple[float | None, int] | None, limit: int
) -> list[tuple[float | None, int]]:
    index = tables.features.c.index
    chosen = passing.select(index)
    if place is not None:
        chosen = chosen.where(index < place[1] if descending else index > place[1])
    return [(None, number) for number in connection.scalars(chosen.order_by(index.desc() if descending else index).limit(limit))]


@dataclass(frozen=True)
class _Numbered:
    """The features that pass, with the numbers to sort them by."""

    valued: Select[*tuple[Any, ...]]
    """Numbers and features, where there is a number."""
    bare: Callable[[int], Select[*tuple[Any, ...]] | CompoundSelect[*tuple[Any, ...]]]
    """The features without one that come after a feature."""


def _ranked(
    connection: Connection, numbered: _Numbered, descending: bool, place: tuple[float | None, int] | None, limit: int
) -> list[tuple[float | None, int]]:
    """Up to `limit` numbers and features after a place: first those with the number sorted by, then those without."""
    rows: list[tuple[float | None, int]] = []
    if place is None or place[0] is not None:
        number, index = numbered.valued.selected_columns
        chosen = numbered.valued
        if place is not None:
            key = tuple_(number, index)
            chosen = chosen.where(key < place if descending else key > place)
        order = (number.desc(), index.desc()) if descending else (number, index)
        rows = [(number, index) for number, index in connection.execute(chosen.order_by(*order).limit(limit))]
    if len(rows) < limit:
        after = place[1] if place is not None and place[0] is None else -1
        rows += [(None, index) for index in connection.scalars(numbered.bare(after).limit(limit - len(rows)))]
    return rows


def _numbered(connection: Connection, passing: _Passing, sort: str, few: bool) -> _Numbered:
    """The numbers to sort by: a column of `features`, or scores of one scorer, given to the shown label or to the feature itself.

    Each has an index to walk down. Where few features pass the filters, the score of each is looked up instead.

    Raises `NotFound` for a sort that is not there.
    """
    features, scores = tables.features.c, tables.scores.c
    if sort in tables.SORTS:
        number = tables.SORTS[sort]
        valued = passing.select(number, features.index).where(number.is_not(None))
        return _Numbered(valued, lambda after: _after(passing.select(features.index).where(number.is_(None)), features.index, after))
    scorer, _, lift = sort.partition(".")
    if lift not in ("", "lift") or connection.scalar(select(scores.feature).where(scores.scorer == scorer).limit(1)) is None:
        known = list(connection.scalars(select(scores.scorer).distinct()))
        raise unknown("sort", sort, ["index", *tables.SORTS, *known, *(f"{name}.lift" for name in known)])
    number = scores.lift if lift else scores.value
    of_scorer, of_feature = scores.scorer == scorer, (scores.feature == features.index, scores.labeller.in_((features.labeller, "")))
    if few:
        looked_up = select(number).where(of_scorer, *of_feature).correlate(tables.features).scalar_subquery()
        each = passing.select(looked_up.label("number"), features.index).cte("numbers").prefix_with("MATERIALIZED")
        valued = select(each.c.number, each.c.index).where(each.c.number.is_not(None))
        return _Numbered(valued, lambda after: _after(select(each.c.index).where(each.c.number.is_(None)), each.c.index, after))
    shown = exists().where(*of_feature, *passing.alone).correlate(tables.scores)
    valued = select(number, scores.feature).where(of_scorer, number.is_not(None), shown)
    return _Numbered(valued, lambda after: _without_score(passing, (of_scorer, number.is_not(None)), after))


def _after(chosen: Select[*tuple[Any, ...]], index: ColumnElement[int], after: int) -> Select[*tuple[Any, ...]]:
    return chosen.where(index > after).order_by(index)


def _without_score(passing: _Passing, scored: Sequence[ColumnElement[bool]], after: int) -> CompoundSelect[*tuple[Any, ...]]:
    """Features without a score of their label or of themselves. All parts come in the order of features, so they have only to be merged."""
    features, scores = tables.features.c, tables.scores.c
    later = (*scored, scores.feature > after)
    labels = select(features.index, features.labeller).where(*passing.alone, features.index > after)
    of_labels = select(scores.feature, scores.labeller).where(*later)
    of_features = select(scores.feature, features.labeller).join(tables.features, features.index == scores.feature)
    return labels.except_(of_labels, of_features.where(*later, scores.labeller == "")).order_by("index", "labeller")


def _place(cursor: str | None) -> tuple[tuple[float | None, int] | None, int | None]:
    """The number and the feature behind which a page begins, and how many features pass: the pages before have counted them."""
    if cursor is None:
        return None, None
    try:
        number, index, total = json.loads(cursor)
    except (ValueError, TypeError):
        raise _no_cursor(cursor) from None
    if not isinstance(index, int) or not isinstance(total, int) or not isinstance(number, int | float | None):
        raise _no_cursor(cursor)
    return (number, index), total


def _no_cursor(cursor: str) -> Invalid:
    return Invalid(f"{cursor!r} is not a cursor. Give the next_cursor of the page before, or none for the first page.")
