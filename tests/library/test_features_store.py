import shutil
import sqlite3

import numpy as np
import planted
import pytest
from sqlalchemy import MetaData, create_engine, inspect, text

from saelab.errors import Corrupt, Invalid, NotFound
from saelab.features import tables
from saelab.features.database import migrate
from saelab.features.store import FeatureStore
from saelab.features.table_page import Filters
from saelab.records import Label, Score


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "features.db"
    planted.store(path).close()
    return path


@pytest.fixture
def store(written, tmp_path):
    opened = FeatureStore(shutil.copy(written, tmp_path / "features.db"))
    yield opened
    opened.close()


def label(text: str, labeller: str = "rules", found: bool = True) -> Label:
    return Label(text=text, input_clause=text, labeller=labeller, found=found)


def score(value: float | None, lift: float | None = None, failed: str | None = None, scorer: str = "rule_detection") -> Score:
    return Score(scorer=scorer, metric="auroc", value=value, lift=lift, lift_low=lift, failed=failed)


def test_a_page_of_every_sort_walks_every_feature_once_in_order(store):
    for index in range(0, planted.D_SAE, 2):
        store.put_label(index, label("x"))
        store.put_scores(index, label("x"), [score(index % 7 / 10, lift=0.2, scorer="other")])
        store.put_scores(index, label("x"), [score(0.5 + index % 5 / 10, lift=0.1)])
    for sort in ("index", "density", "max", "mean", "score", "lift"):
        for descending in (False, True):
            rows, cursor = [], None
            while True:
                page = store.page(sort=sort, descending=descending, cursor=cursor, limit=7)
                assert page.total == planted.D_SAE
                rows += page.items
                cursor = page.next_cursor
                if cursor is None:
                    break
            assert sorted(row.index for row in rows) == list(range(planted.D_SAE))
            numbers = [getattr(row, sort) for row in rows]
            known = [number for number in numbers if number is not None]
            assert known == sorted(known, reverse=descending)
            assert numbers[: len(known)] == known, "features without the number come last"


@pytest.mark.parametrize("few", [1, 8192], ids=["many features", "few features"])
def test_a_page_may_be_sorted_by_any_scorer_of_the_shown_label(store, monkeypatch, few):
    monkeypatch.setattr("saelab.features.table_page._FEW", few)
    for index in range(0, planted.D_SAE, 3):
        store.put_label(index, label("old", labeller="older"))
        store.put_scores(index, label("old", labeller="older"), [score(1.0, scorer="other")])
        store.put_label(index, label("x"))
        store.put_scores(index, label("x"), [score(index % 7 / 10, lift=index % 4 / 10, scorer="other")])
        store.put_scores(index, label("x"), [score(0.5)])
    by_hand = sorted(range(0, planted.D_SAE, 3), key=lambda index: (-(index % 7), -index))
    rest = [index for index in range(planted.D_SAE) if index % 3]
    rows, cursor = [], None
    while not rows or cursor:
        page = store.page(sort="other", descending=True, cursor=cursor, limit=9)
        rows += [row.index for row in page.items]
        cursor = page.next_cursor
    assert rows == by_hand + rest
    lifts = [index % 4 for index in (row.index for row in store.page(sort="other.lift", limit=14).items)]
    assert lifts == sorted(lifts)
    chosen = store.page(Filters(labelled=True, max_density=0.15), sort="other", descending=True, limit=5).items
    assert [row.index for row in chosen] == [index for index in by_hand if index not in (planted.DENSE, planted.YEARS)][:5]
    with pytest.raises(NotFound, match=r"other\.lift"):
        store.page(sort="other.lif")


@pytest.mark.parametrize("few", [1, 8192], ids=["many features", "few features"])
def test_scores_of_the_features_themselves_sort_the_table_and_need_no_label(store, monkeypatch, few):
    monkeypatch.setattr("saelab.features.table_page._FEW", few)
    store.put_label(2, label("x"))
    for index, value in ((1, 0.4), (2, 0.9), (5, 0.6)):
        store.put_scores(index, None, [score(value, lift=1 - value, scorer="of_itself")], shown=False)
    assert [row.index for row in store.page(sort="of_itself", descending=True, limit=4).items] == [2, 5, 1, 0]
    assert [row.index for row in store.page(sort="of_itself.lift", limit=3).items] == [2, 5, 1]
    assert store.scores(5)[0].value == 0.6
    assert store.rows([2])[0].score is None, "the table shows what a label's scorer found"


def test_filters_choose_by_tags_and_by_score(store):
    tagged = {row.index: set(row.tags) for row in store.page(limit=100).items}
    assert {"dense"} <= tagged[planted.DENSE]
    assert tagged[planted.DEAD] == {"dead"}
    assert "token" in tagged[planted.COURT]
    assert "ngram" in tagged[planted.AFTER_OF]
    for filters in (Filters(tags=("token",)), Filters(without_tags=("token", "dead"))):
        found = {row.index for row in store.page(filters, limit=100).items}
        assert found == {index for index, tags in tagged.items() if tags.issuperset(filters.tags) and tags.isdisjoint(filters.without_tags)}
    assert store.page(Filters(tags=("toke",))).total == 0
    for index, value in enumerate((0.3, 0.6, 0.9)):
        store.put_label(index, label("x"))
        store.put_scores(index, label("x"), [score(value)])
    assert [row.index for row in store.page(Filters(min_score=0.5)).items] == [1, 2]
    assert [row.index for row in store.page(Filters(min_score=0.5, max_score=0.8)).items] == [1]
    assert store.page(Filters(min_score=0.5, words="court")).total == 0


def test_filters_choose_by_words_density_life_label_and_lift(store):
    store.put_label(planted.COURT, label("the token court"))
    store.put_scores(planted.COURT, label("x"), [score(0.9, lift=0.4)])
    store.put_label(planted.NOISE, label("nothing", found=False))
    assert [row.index for row in store.page(Filters(words="cou")).items] == [planted.COURT]
    assert [row.index for row in store.page(Filters(dead=True)).items] == [planted.DEAD]
    assert [row.index for row in store.page(Filters(labelled=True)).items] == [planted.COURT]
    assert store.page(Filters(labelled=False)).total == planted.D_SAE - 1
    assert [row.index for row in store.page(Filters(min_lift=0.3)).items] == [planted.COURT]
    assert {row.index for row in store.page(Filters(min_density=0.15)).items} == {planted.YEARS, planted.DENSE}
    assert planted.DENSE not in {row.index for row in store.page(Filters(max_density=0.15)).items}


def test_search_finds_beginnings_of_words_and_takes_any_punctuation(store):
    store.put_label(5, label("medals and sports"))
    assert [row.index for row in store.search("med spo")] == [5]
    assert [row.index for row in store.search("lawyer OR (")] == []
    assert store.search('"*) --') == []
    assert planted.COURT in {row.index for row in store.search("court")}
    assert store.page(Filters(words=",")).total >= 1


def test_bad_requests_are_refused_in_words(store):
    with pytest.raises(NotFound, match="Did you mean density"):
        store.page(sort="densit")
    with pytest.raises(Invalid, match="limit"):
        store.page(limit=0)
    for cursor in ("x", "[1]", '["a", 2]', "{}", "[true, 1.5]"):
        with pytest.raises(Invalid, match="cursor"):
            store.page(sort="max", cursor=cursor)
    with pytest.raises(NotFound, match="0 to 39"):
        store.feature(40)
    with pytest.raises(NotFound):
        store.neighbours(-1)


def test_a_feature_page_is_self_contained(store):
    feature = store.feature(planted.COURT)
    assert str(feature.id) == "toy/planted/0"
    assert feature.previous is None
    assert feature.next == 1
    assert {token.token for token in feature.peak_tokens} == {" court", "Court"}
    assert feature.density.low < feature.density.value < feature.density.high
    assert sum(feature.histogram.counts) == round(feature.density.value * feature.density.n)
    assert len(feature.histogram.edges) == len(feature.histogram.counts) + 1
    assert [other.index for other in feature.neighbours] == [1, 2]
    assert feature.top_logits[0].token == planted.STRINGS[0]
    assert feature.bands[0].name == "top"
    assert feature.bands[0].high == pytest.approx(feature.max)
    assert sum(band.share for band in feature.bands[1:]) == pytest.approx(1)
    for band in feature.bands:
        assert band.low <= band.high
        for example in band.examples:
            assert len(example.tokens) == len(example.values)
            assert example.tokens[example.peak] in (" court", "Court")
            assert band.low <= example.values[example.peak] + 1e-4
            tokens = planted.CORPUS.document_tokens(example.document)[example.position :][: len(example.tokens)]
            assert tuple(planted.STRINGS[token] for token in tokens) == example.tokens


def test_a_dead_feature_has_a_page_too(store):
    feature = store.feature(planted.DEAD)
    assert feature.dead
    assert feature.bands == ()
    assert feature.peak_tokens == ()
    assert "dead" in feature.tags


def test_signed_features_show_their_most_negative_examples(store):
    bands = {band.name: band for band in store.feature(planted.SIGNED).bands}
    assert bands["bottom"].high < 0 < bands["top"].low


def test_labels_and_scores_are_shown_and_replaced(store):
    store.put_label(3, label("first"))
    store.put_scores(3, label("first"), [score(0.8, lift=0.3), Score(scorer="rule_detection", metric="auroc:random", value=0.9)])
    assert [item.value for item in store.feature(3).label.scores] == [0.8, 0.9]
    assert store.rows([3])[0].score == 0.8
    assert 3 not in store.unscored("rules", "rule_detection")
    store.put_label(3, label("second"))
    assert store.feature(3).label.text == "second"
    assert store.feature(3).label.scores == ()
    assert store.rows([3])[0].score is None
    assert store.unscored("rules", "rule_detection") == [3]
    store.put_scores(3, label("second"), [score(None, failed="too few windows")])
    assert store.feature(3).label.scores[0].failed == "too few windows"
    with pytest.raises(NotFound, match="no label"):
        store.put_scores(4, label("x"), [score(0.5)])


def test_a_store_of_another_version_or_no_store_is_refused(store, tmp_path):
    store.close()
    with sqlite3.connect(store.path) as file:
        file.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
    file.close()
    with pytest.raises(Corrupt, match="version 99"):
        FeatureStore(store.path)
    (tmp_path / "junk.db").write_bytes(b"no database" * 100)
    with pytest.raises(Corrupt, match="not a feature store"):
        FeatureStore(tmp_path / "junk.db")
    with pytest.raises(NotFound, match="saelab collect"):
        FeatureStore(tmp_path / "absent.db")
    with pytest.raises(Invalid, match="sqlite"):
        FeatureStore("mysql://somewhere/db")


def test_writing_that_fails_leaves_the_old_store_whole(tmp_path, monkeypatch):
    path = tmp_path / "features.db"
    store = planted.store(path)
    store.put_label(1, label("kept"))
    store.close()

    def broken(*_):
        raise RuntimeError("killed")

    monkeypatch.setattr("saelab.features.write._Writer._geometry", broken)
    with pytest.raises(RuntimeError):
        planted.store(path)
    store = FeatureStore(path)
    assert store.feature(1).label.text == "kept"
    store.close()
    monkeypatch.undo()
    store = planted.store(path)
    assert store.feature(1).label is None
    store.close()


def test_the_store_opens_from_a_url(store):
    again = FeatureStore(f"sqlite:///{store.path}")
    assert again.num_tokens == store.num_tokens
    again.close()


def test_neighbours_are_kept_by_kind_and_the_map_by_feature(store):
    assert store.neighbours(0) == store.neighbours(0, by="firing")
    assert store.neighbours(0)[0].similarity == 0.5
    assert store.neighbours(0, by="encoder") == ()
    with pytest.raises(NotFound, match="decoder"):
        store.neighbours(0, by="decode")
    store.put_label(3, label("court rooms"))
    store.put_scores(3, label("court rooms"), [score(0.8, lift=0.3)])
    places, rows = store.map(), store.page(limit=planted.D_SAE).items
    np.testing.assert_allclose(places.x, np.cos(np.arange(planted.D_SAE)), atol=1e-4)
    assert len(places.y) == planted.D_SAE
    np.testing.assert_allclose(places.density, [row.density for row in rows], rtol=0.01)
    assert places.score == tuple(row.score for row in rows)
    assert places.score[3] == 0.8
    assert [places.tags[tag] if tag >= 0 else None for tag in places.tag] == [row.tags[0] if row.tags else None for row in rows]


def test_every_label_of_a_feature_keeps_its_labeller(store):
    store.put_label(3, label("first", labeller="someone"))
    store.put_label(3, label("second"))
    store.put_scores(3, label("second"), [score(0.7)])
    assert [(item.labeller, item.text, len(item.scores)) for item in store.labels_of(3)] == [
        ("rules", "second", 1),
        ("someone", "first", 0),
    ]


def test_meanings_are_found_by_cosine_and_made_anew_when_a_label_changes(store):
    with pytest.raises(NotFound, match="saelab embed"):
        store.nearest(np.ones(3), 2)
    store.put_label(1, label("animals"))
    store.put_label(4, label("numbers"))
    store.put_label(5, label("nothing", found=False))
    assert store.without_meaning() == {1: "animals", 4: "numbers"}
    store.put_meanings(store.without_meaning(), np.eye(3)[:2])
    assert store.without_meaning() == {}
    assert store.nearest(np.array([0.6, 0.8, 0]), 5) == [(4, pytest.approx(0.8, abs=1e-3)), (1, pytest.approx(0.6, abs=1e-3))]
    store.put_label(1, label("plants"))
    assert store.without_meaning() == {1: "plants"}
    store.put_meanings({1: "plants"}, np.eye(3)[2:])
    assert store.nearest(np.eye(3)[2], 1) == [(1, pytest.approx(1.0))]


def first_schema(path, store):
    """A store as schema 1 had it, with the rows that both have in common."""
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as old:
        migrate(old, 0, to="1")
        old.execute(text(f"ATTACH '{store.path}' AS new"))
        for name in inspect(old).get_table_names():
            if name.startswith(("words", "alembic")):
                continue
            columns = [f'"{column["name"]}"' for column in inspect(old).get_columns(name)]
            renamed = [{'"cosine"': '"similarity"'}.get(column, column) for column in columns]
            where = " WHERE kind = 'decoder'" if name == "neighbours" else ""
            old.execute(text(f"INSERT INTO {name} ({', '.join(columns)}) SELECT {', '.join(renamed)} FROM new.{name}{where}"))
        old.execute(text("INSERT INTO words (rowid, label, tokens) SELECT rowid, label, tokens FROM new.words"))
        old.execute(text("UPDATE meta SET value = '1' WHERE key = 'schema'"))
    engine.dispose()


def shape(engine):
    """Tables with columns and indexes."""
    found = MetaData()
    found.reflect(engine)
    return {
        name: (
            [(column.name, str(column.type), column.primary_key, column.nullable) for column in table.columns],
            {index.name: [column.name for column in index.columns] for index in table.indexes},
        )
        for name, table in found.tables.items()
        if not name.startswith(("words", "alembic"))
    }


def test_a_store_of_the_first_schema_is_upgraded_with_all_that_is_in_it(store, tmp_path):
    store.put_label(3, label("court rooms"))
    store.put_scores(3, label("court rooms"), [score(0.8, lift=0.3)])
    first_schema(tmp_path / "old.db", store)
    old = FeatureStore(tmp_path / "old.db")
    assert old.facts["schema"] == tables.SCHEMA
    assert shape(old.engine) == shape(store.engine)
    assert old.feature(3) == store.feature(3)
    assert old.page(sort="rule_detection", descending=True).items == store.page(sort="rule_detection", descending=True).items
    assert [row.index for row in old.search("rooms")] == [3]
    assert old.map().x == ()
    old.close()


def test_an_upgrade_that_fails_leaves_the_old_store_as_it_was(store, tmp_path, monkeypatch):
    path = tmp_path / "old.db"
    first_schema(path, store)
    with sqlite3.connect(path) as file:
        file.execute("DROP INDEX features_by_lift")
    file.close()
    before = path.read_bytes()
    with pytest.raises(Exception, match="features_by_lift"):
        FeatureStore(path)
    with sqlite3.connect(path) as file:
        assert file.execute("SELECT count(*) FROM pragma_table_info('details') WHERE name = 'skew'").fetchone() == (0,)
    assert len(before) > 0
