import shutil
import sqlite3

import planted
import pytest

from saelab.errors import Corrupt, Invalid, NotFound
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


def score(value: float | None, lift: float | None = None, failed: str | None = None) -> Score:
    return Score(scorer="rule_detection", metric="auroc", value=value, lift=lift, lift_low=lift, failed=failed)


def test_a_page_of_every_sort_walks_every_feature_once_in_order(store):
    for index in range(0, planted.D_SAE, 2):
        store.put_label(index, label("x"))
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
