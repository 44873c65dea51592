"""The index of words over labels and top tokens: FTS5 in SQLite, a `tsvector` in PostgreSQL."""

import re
from dataclasses import dataclass

from sqlalchemy import Connection, TextClause, text

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class _Dialect:
    create: tuple[str, ...]
    """Makes the index."""
    insert: str
    """Adds a feature."""
    label: str
    """Changes a feature's label."""
    matching: str
    """The features that match."""
    ranked: str
    """The same, best matches first."""
    each: str
    """How the beginning of a word is asked for."""
    joint: str
    """What stands between two words that must both be there."""


_DIALECTS = {
    "sqlite": _Dialect(
        create=(
            "CREATE VIRTUAL TABLE words USING fts5(label, tokens, tokenize='unicode61 remove_diacritics 2')",
            "INSERT INTO words (words, rank) VALUES ('rank', 'bm25(4.0, 1.0)')",
        ),
        insert="INSERT INTO words (rowid, label, tokens) VALUES (:feature, '', :tokens)",
        label="UPDATE words SET label = :label WHERE rowid = :feature",
        matching="SELECT rowid + 0 AS feature FROM words WHERE words MATCH :match",  # a sum cannot be looked up: all are found at once
        ranked="SELECT rowid FROM words WHERE words MATCH :match ORDER BY rank, rowid LIMIT :limit",
        each='"{}"*',
        joint=" ",
    ),
    "postgresql": _Dialect(
        create=(
            "CREATE TABLE words (feature INTEGER PRIMARY KEY, label TEXT NOT NULL, tokens TEXT NOT NULL, "
            "vector TSVECTOR GENERATED ALWAYS AS "
            "(setweight(to_tsvector('simple', label), 'A') || setweight(to_tsvector('simple', tokens), 'D')) STORED)",
            "CREATE INDEX words_by_vector ON words USING gin (vector)",
        ),
        insert="INSERT INTO words (feature, label, tokens) VALUES (:feature, '', :tokens)",
        label="UPDATE words SET label = :label WHERE feature = :feature",
        matching="SELECT feature FROM words WHERE vector @@ to_tsquery('simple', :match)",
        ranked="SELECT feature FROM words WHERE vector @@ to_tsquery('simple', :match) "
        "ORDER BY ts_rank(vector, to_tsquery('simple', :match)) DESC, feature LIMIT :limit",
        each="'{}':*",
        joint=" & ",
    ),
}


def _of(connection: Connection) -> _Dialect:
    return _DIALECTS[connection.dialect.name]


def _plain(written: str) -> str:
    return written.replace("\0", "␀")  # PostgreSQL has no such character


def create_words(connection: Connection) -> None:
    """Makes the index, empty."""
    for statement in _of(connection).create:
        connection.execute(text(statement))


def insert_words(connection: Connection, tokens: dict[int, str]) -> None:
    """Adds features without labels, by their top tokens."""
    rows = [{"feature": feature, "tokens": _plain(written)} for feature, written in tokens.items()]
    connection.execute(text(_of(connection).insert), rows)


def put_words(connection: Connection, feature: int, label: str) -> None:
    """Changes the label of a feature."""
    connection.execute(text(_of(connection).label), {"feature": feature, "label": _plain(label)})


def word_query(connection: Connection, words: str) -> str | None:
    """The query for the beginnings of some words; none where there is no word in them."""
    dialect, found = _of(connection), _WORD.findall(words)
    return dialect.joint.join(dialect.each.format(word) for word in found) if found else None


def matching(connection: Connection, query: str) -> TextClause:
    """The statement that gives the features that match a query."""
    return text(_of(connection).matching).bindparams(match=query)


def ranked(connection: Connection, query: str, limit: int) -> list[int]:
    """The features that match a query, best first: a word of the label weighs more than one of the tokens."""
    return [int(feature) for (feature,) in connection.execute(text(_of(connection).ranked), {"match": query, "limit": limit})]
