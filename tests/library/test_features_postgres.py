"""The same store in PostgreSQL."""

import numpy as np
import planted
import postgres
import pytest
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from saelab.errors import Conflict, Invalid, NotFound
from saelab.features import tables
from saelab.features.geometry import Neighbours
from saelab.features.store import FeatureStore
from saelab.features.table_page import Filters
from saelab.features.write import Geometry, write_features
from saelab.records import Label, Score


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("psycopg")
    pytest.importorskip(postgres.PACKAGE)
    with postgres.running() as url:
        yield url


@pytest.fixture(scope="module")
def stores(server, tmp_path_factory):
    """The planted store in a file and in a schema, with the same labels and scores."""
    file = planted.store(tmp_path_factory.mktemp("file") / "features.db")
    index = file.all_neighbours()
    near = {"decoder": Neighbours(index=index, similarity=np.full(index.shape, 0.5, np.float32))}
    url = f"{server}&schema=planted-1 res"
    write_features(url, "toy", "planted", planted.collected(), [*planted.STRINGS, "\0"], Geometry(near))
    database = FeatureStore(url)
    for store in (file, database):
        for index in range(0, planted.D_SAE, 2):
            label = Label(text=f"the token x{index} of courts", input_clause="", labeller="rules", found=index % 3 > 0)
            store.put_label(index, label)
            number = index % 7 / 10
            store.put_scores(index, label, [Score(scorer="rule_detection", metric="auroc", value=number, lift=number - 0.2, lift_low=0.0)])
    yield file, database
    file.close()
    database.close()


@pytest.mark.parametrize("sort", ["index", "density", "score", "lift", "rule_detection", "rule_detection.lift"])
def test_every_page_is_the_same_in_both(stores, sort):
    file, database = stores
    filters = [Filters(), Filters(words="cou tok"), Filters(tags=("token",), labelled=True), Filters(min_score=0.2, max_density=0.1)]
    for chosen in filters:
        for descending in (False, True):
            cursor = None
            while True:
                pages = [store.page(chosen, sort, descending, cursor, limit=6) for store in (file, database)]
                assert [row.index for row in pages[0].items] == [row.index for row in pages[1].items]
                assert pages[0].total == pages[1].total
                assert pages[0].next_cursor == pages[1].next_cursor
                cursor = pages[0].next_cursor
                if cursor is None:
                    break


def test_pages_of_features_searches_and_meanings_are_the_same_in_both(stores):
    file, database = stores
    for index in (planted.COURT, planted.SIGNED, planted.DEAD):
        one, other = file.feature(index), database.feature(index)
        names = ("label", "bands", "tags", "neighbours", "density")
        assert [getattr(one, name) for name in names] == [getattr(other, name) for name in names]
    assert [row.index for row in database.search("x12")] == [row.index for row in file.search("x12")] == [12]
    assert database.search("'; drop table features; --") == []
    assert database.strings[-1] == "␀"
    for store in (file, database):
        store.put_meanings({2: "two", 4: "four"}, np.eye(2))
        assert store.nearest(np.array([0.0, 1.0]), 1) == [(4, 1.0)]


def test_what_cannot_be_opened_is_refused_in_words(stores, server):
    with pytest.raises(NotFound, match="saelab collect"):
        FeatureStore(f"{server}&schema=absent")
    with pytest.raises(NotFound, match="cannot be reached"):
        FeatureStore("postgresql://saelab@/postgres?host=/nowhere&schema=x")
    with pytest.raises(Conflict, match="Cannot write"):
        write_features("postgresql://saelab@/postgres?host=/nowhere", "toy", "x", planted.collected(), planted.STRINGS)


def test_urls_with_a_password_or_of_another_kind_are_refused():
    with pytest.raises(Invalid, match="PGPASSWORD"):
        FeatureStore("postgresql://me:secret@localhost/x")
    with pytest.raises(Invalid, match="schema"):
        FeatureStore("mysql://somewhere/db")


def test_the_tables_can_be_made_by_postgresql():
    made = {table.name: str(CreateTable(table).compile(dialect=postgresql.dialect())) for table in tables.metadata.sorted_tables}
    assert "count BIGINT" in made["features"]
    assert "segment BIGINT" in made["segments"] or "segment BIGSERIAL" in made["segments"]
    assert "BYTEA" in made["meanings"]
