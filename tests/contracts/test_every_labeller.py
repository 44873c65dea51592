"""What every registered labeller must do."""

import dataclasses

import planted
import pytest
from endpoint import oracle, serving

from saelab.errors import Unscored
from saelab.features.collect import CollectConfig
from saelab.features.views import Views
from saelab.labellers.base import LABELLERS, label_features
from saelab.labellers.predicates import TokenIs, parse
from saelab.llm import Endpoint
from saelab.values import from_json, to_json

LARGE = CollectConfig(top=12, explain=40, select=16, score=40, width=16, before=8, pool=1500)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    opened = planted.store(tmp_path_factory.mktemp("labels") / "features.db", LARGE)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def views(store):
    return Views(store)


@pytest.fixture(params=LABELLERS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, serving(oracle) as endpoint:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield endpoint.url


@pytest.fixture
def labeller(name, url):
    kind = LABELLERS[name]
    return kind(url=url) if issubclass(kind, Endpoint) else kind()


def test_a_labeller_is_its_own_config(name):
    labeller = LABELLERS[name]()
    assert from_json(type(labeller), to_json(labeller)) == labeller


def test_a_label_says_who_made_it_and_how(name, labeller, views):
    for index in (planted.COURT, planted.NOISE, planted.DENSE):
        label = labeller.label(views.explain(index))
        assert label.labeller == name
        assert from_json(type(labeller), label.made_by) == labeller
        assert label.text
        assert label.found == bool(label.input_clause)
        if label.predicate:
            assert parse(label.predicate).words()


def test_labels_are_the_same_every_time(labeller, views):
    assert labeller.label(views.explain(planted.TOPIC)) == labeller.label(views.explain(planted.TOPIC))


def test_a_feature_that_never_fires_has_no_label(labeller, views):
    with pytest.raises(Unscored, match="0 windows"):
        labeller.label(views.explain(planted.DEAD))


def test_labelling_goes_on_where_it_was_cut_short(name, labeller, tmp_path):
    store = planted.store(tmp_path / "features.db")
    assert label_features(store, labeller, [0, 4, 7]) == 3
    assert store.unlabelled(name)[:3] == [1, 2, 3]
    assert store.label(4, name).text.startswith("no label: fires in 0 windows")
    assert label_features(store, labeller) == planted.D_SAE - 3
    assert label_features(store, labeller) == 0
    store.close()


def test_rules_names_what_was_planted(views):
    labeller = LABELLERS["rules"]()
    court = labeller.label(views.explain(planted.COURT))
    assert parse(court.predicate) == TokenIs(any_of=("court",))
    assert court.input_clause == "the token “court” and variants"
    assert court.output_clause.startswith("promotes “ of”, ")
    assert labeller.label(views.explain(planted.YEARS)).input_clause == "numbers"
    assert labeller.label(views.explain(planted.AFTER_OF)).text == "tokens right after “of”"
    endings = labeller.label(views.explain(planted.ENDINGS))
    assert all(word in endings.text for word in ("running", "singing")) or "“ing”" in endings.text
    assert "law" in labeller.label(views.explain(planted.TOPIC)).text


def test_rules_says_so_where_there_is_no_rule(views):
    for index in (planted.NOISE, planted.MEMORY):
        label = LABELLERS["rules"]().label(views.explain(index))
        assert not label.found
        assert label.text.startswith("no simple rule found; strongest on “")
        assert label.predicate == ""


def test_rules_leaves_out_what_is_promoted_where_the_logits_are_flat(views):
    view = views.explain(planted.COURT)
    flat = dataclasses.replace(view, kurtosis=view.kurtosis_null)
    assert LABELLERS["rules"]().label(flat).output_clause == ""
