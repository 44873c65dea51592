"""One page of the feature table: filters, sorting and paging by key, so that a late page costs no more than the first."""

import json
import re
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, func, literal_column, select, text, tuple_

from saelab.errors import Invalid, unknown
from saelab.features import tables
from saelab.records import FeaturePage, FeatureRow

MAX_LIMIT = 500
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, kw_only=True)
class TableQuery:
    """Which features a page of the table shows, in which order, from where."""

    sort: str = "index"
    """Column to sort by; features without a number in it come last."""
    descending: bool = False
    """Largest first."""
    words: str | None = None
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
    cursor: str | None = None
    """`next_cursor` of the page before."""
    limit: int = 50
    """Rows of the page at most."""


def page_of(connection: Connection, query: TableQuery) -> FeaturePage:
    """The page that a query asks for. Raises `Invalid` for a limit or cursor that cannot be right, `NotFound` for an unknown sort."""
    if not 1 <= query.limit <= MAX_LIMIT:
        raise Invalid(f"limit must be from 1 to {MAX_LIMIT}, not {query.limit}.")
    if query.sort != "index" and query.sort not in tables.SORTS:
        raise unknown("sort", query.sort, ["index", *tables.SORTS])
    conditions = _conditions(query)
    total = int(connection.scalar(select(func.count()).select_from(tables.features).where(*conditions)) or 0)
    rows = _ranked(connection, conditions, query, _place(query.cursor))
    shown = rows[: query.limit]
    following = json.dumps([shown[-1][query.sort], shown[-1]["index"]]) if len(rows) > query.limit else None
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


def _conditions(query: TableQuery) -> list[ColumnElement[bool]]:
    column = tables.features.c
    found: list[ColumnElement[bool]] = []
    if query.words and query.words.strip():
        match = word_query(query.words)
        if match is None:
            found.append(column.top_tokens.contains(query.words.strip(), autoescape=True))
        else:
            matching = text("SELECT rowid FROM words WHERE words MATCH :match").bindparams(match=match)
            found.append(column.index.in_(matching.columns(literal_column("rowid"))))
    if query.dead is not None:
        found.append(column.dead.is_(query.dead))
    if query.labelled is not None:
        found.append(func.coalesce(column.label_found, False).is_(query.labelled))
    if query.min_density is not None:
        found.append(column.density >= query.min_density)
    if query.max_density is not None:
        found.append(column.density <= query.max_density)
    if query.min_lift is not None:
        found.append(column.lift >= query.min_lift)
    return found


def _ranked(
    connection: Connection, conditions: list[ColumnElement[bool]], query: TableQuery, place: tuple[float | None, int] | None
) -> list[RowMapping]:
    """One row more than the page holds, after a place: first those with the number sorted by, then those without."""
    index: ColumnElement[Any] = tables.features.c.index
    chosen: Select[Any] = select(tables.features).where(*conditions)
    limit = query.limit + 1
    if query.sort == "index":
        if place is not None:
            chosen = chosen.where(index < place[1] if query.descending else index > place[1])
        return list(connection.execute(chosen.order_by(index.desc() if query.descending else index).limit(limit)).mappings())
    column: ColumnElement[Any] = tables.SORTS[query.sort]
    rows: list[RowMapping] = []
    if place is None or place[0] is not None:
        valued = chosen.where(column.is_not(None))
        if place is not None:
            key = tuple_(column, index)
            valued = valued.where(key < place if query.descending else key > place)
        order = (column.desc(), index.desc()) if query.descending else (column, index)
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
