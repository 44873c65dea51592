"""One page of the feature table: filters, sorting and paging by key, so that a late page costs no more than the first."""

import json
import re
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, func, literal_column, select, text, tuple_

from saelab.errors import Invalid, unknown
from saelab.features import tables
from saelab.records import FeaturePage, FeatureRow
from saelab.values import value

MAX_LIMIT = 500
_WORD = re.compile(r"\w+")


@value
class Filters:
    """Which features a page of the table shows."""

    words: str = ""
    """Words that the label or the top tokens must contain; each may be the beginning of one."""
    dead: bool | None = None
    """Only dead features, or only live ones."""
    labelled: bool | None = None
    """Only features whose label states a rule, or only the others."""
    min_density: float | None = None
    """Smallest share of tokens on which it fires."""
    max_density: float | None = None
    """Largest share of tokens on which it fires."""
    min_lift: float | None = None
    """Smallest lift of its score."""


def page_of(connection: Connection, filters: Filters, sort: str, descending: bool, cursor: str | None, limit: int) -> FeaturePage:
    """The features that pass the filters, sorted, from `cursor` on.

    Raises `Invalid` for a limit or cursor that cannot be right, `NotFound` for an unknown sort.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise Invalid(f"limit must be from 1 to {MAX_LIMIT}, not {limit}.")
    if sort != "index" and sort not in tables.SORTS:
        raise unknown("sort", sort, ["index", *tables.SORTS])
    conditions = _conditions(filters)
    total = int(connection.scalar(select(func.count()).select_from(tables.features).where(*conditions)) or 0)
    rows = _ranked(connection, conditions, sort, descending, _place(cursor), limit + 1)
    shown = rows[:limit]
    following = json.dumps([shown[-1][sort], shown[-1]["index"]]) if len(rows) > limit else None
    return FeaturePage(items=tuple(row_of(row) for row in shown), total=total, next_cursor=following)


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


def word_query(words: str) -> str | None:
    """The full-text query for the beginnings of some words; none where there is no word in them."""
    found = _WORD.findall(words)
    return " ".join(f'"{word}"*' for word in found) if found else None


def _conditions(filters: Filters) -> list[ColumnElement[bool]]:
    column = tables.features.c
    found: list[ColumnElement[bool]] = []
    if filters.words.strip():
        match = word_query(filters.words)
        if match is None:
            found.append(column.top_tokens.contains(filters.words.strip(), autoescape=True))
        else:
            matching = text("SELECT rowid FROM words WHERE words MATCH :match").bindparams(match=match)
            found.append(column.index.in_(matching.columns(literal_column("rowid"))))
    if filters.dead is not None:
        found.append(column.dead.is_(filters.dead))
    if filters.labelled is not None:
        found.append(func.coalesce(column.label_found, False).is_(filters.labelled))
    # `coalesce` keeps the database from walking the index of a filter, which costs far more here than reading the narrow table through
    if filters.min_density is not None:
        found.append(func.coalesce(column.density, 0.0) >= filters.min_density)
    if filters.max_density is not None:
        found.append(func.coalesce(column.density, 0.0) <= filters.max_density)
    if filters.min_lift is not None:
        found.append(func.coalesce(column.lift, -2.0) >= filters.min_lift)
    return found


def _ranked(
    connection: Connection,
    conditions: list[ColumnElement[bool]],
    sort: str,
    descending: bool,
    place: tuple[float | None, int] | None,
    limit: int,
) -> list[RowMapping]:
    """Up to `limit` rows after a place: first those with the number sorted by, then those without."""
    index: ColumnElement[Any] = tables.features.c.index
    chosen: Select[Any] = select(tables.features).where(*conditions)
    if sort == "index":
        if place is not None:
            chosen = chosen.where(index < place[1] if descending else index > place[1])
        return list(connection.execute(chosen.order_by(index.desc() if descending else index).limit(limit)).mappings())
    column: ColumnElement[Any] = tables.SORTS[sort]
    rows: list[RowMapping] = []
    if place is None or place[0] is not None:
        valued = chosen.where(column.is_not(None))
        if place is not None:
            key = tuple_(column, index)
            valued = valued.where(key < place if descending else key > place)
        order = (column.desc(), index.desc()) if descending else (column, index)
        rows = list(connection.execute(valued.order_by(*order).limit(limit)).mappings())
    if len(rows) < limit:
        after = place[1] if place is not None and place[0] is None else -1
        bare = chosen.where(column.is_(None), index > after).order_by(index).limit(limit - len(rows))
        rows += list(connection.execute(bare).mappings())
    return rows


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
