"""What every registered scorer must do."""

import json
import shutil
from dataclasses import replace

import numpy as np
import planted
import pytest
from endpoint import guesser, oracle, serving

from saelab.embeddings import Hashed
from saelab.errors import Unscored
from saelab.features.collect import CollectConfig
from saelab.features.store import FeatureStore
from saelab.features.views import Views
from saelab.labellers.base import LABELLERS, label_features
from saelab.labellers.predicates import AnyOf, Rule, ShapeIs, TokenIs, Topic, write
from saelab.llm import Endpoint
from saelab.records import Label
from saelab.scorers.base import SCORERS, Bench, score_features
from saelab.values import from_json, to_json

LARGE = CollectConfig(top=12, explain=40, select=16, score=40, width=16, before=8, pool=1500)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    opened = planted.store(tmp_path_factory.mktemp("scores") / "features.db", LARGE)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def views(store):
    return Views(store)


@pytest.fixture(scope="module")
def bench(views):
    return Bench(views, planted.PlantedLab(), Hashed())


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, serving(oracle) as endpoint:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield endpoint.url


@pytest.fixture(params=SCORERS)
def name(request):
    return request.param


@pytest.fixture
def scorer(name, url):
    kind = SCORERS[name]
    return kind(url=url, parallel=1) if issubclass(kind, Endpoint) else kind()


def stating(rule: Rule, promoted: str = " of") -> Label:
    words = rule.words()
    return Label(text=words, input_clause=words, output_clause=f"promotes “{promoted}”", labeller="test", predicate=write(rule))


OTHERS = [stating(TokenIs(any_of=(word.strip(),)), " w" + word[2:]) for word in planted.FILLER[:12]]
RIGHT = stating(TokenIs(any_of=("court",)))
WRONG = stating(TokenIs(any_of=(planted.FILLER[40].strip(),)), planted.FILLER[40])


def head(scorer, label, view, bench, others=OTHERS):
    return scorer.score(label if scorer.of_label else None, view, others[: scorer.nulls] if scorer.of_label else [], bench)[0]


def test_a_scorer_is_its_own_config(name):
    scorer = SCORERS[name]()
    assert from_json(type(scorer), to_json(scorer)) == scorer


def test_a_score_says_all_that_is_needed_to_judge_it(name, scorer, views, bench):
    for score in scorer.score(RIGHT if scorer.of_label else None, views.score(planted.COURT), OTHERS[: scorer.nulls], bench):
        assert (score.scorer, score.seed, score.failures) == (name, scorer.seed, 0)
        assert score.n > 0
        assert from_json(type(scorer), score.made_by) == scorer
        if score.low is not None:
            assert score.low - 1e-9 <= score.value <= score.high + 1e-9
        if isinstance(scorer, Endpoint):
            assert score.model == "oracle"
            assert len(score.prompt) == 16


def test_the_right_label_beats_luck_and_a_wrong_one_does_not(name, scorer, views, bench):
    right = head(scorer, RIGHT, views.score(planted.COURT if scorer.of_label else planted.TOPIC), bench)
    assert right.metric == scorer.metric
    if name == "label_gap":
        assert abs(right.value) < 0.2
        return
    assert right.lift == pytest.approx(right.value - right.null)
    assert right.lift_low > 0.02
    if scorer.of_label:
        wrong = head(scorer, WRONG, views.score(planted.COURT), bench) if name != "sensitivity" else None
        assert wrong is None or wrong.value < right.value - 0.2
        assert wrong is None or wrong.lift_low < 0.1


def test_noise_scores_no_better_than_luck_without_a_label(name, scorer, views, bench):
    """Windows of the noise feature have nothing in common, and its explain windows tell nothing of its score windows."""
    if scorer.of_label:
        pytest.skip("it scores labels")
    score = head(scorer, None, views.score(planted.NOISE), bench)
    assert score.low - 0.1 <= score.null <= score.high + 0.1


def memoriser(views, index) -> Label:
    """A label that lists the very windows it was made from."""
    windows = views.explain(index).positives
    listed = []
    for row, counted in zip(windows.texts.folded, windows.counted, strict=True):
        words = tuple(sorted({windows.texts.vocabulary.fold_texts[form] for form in row[counted]}))
        listed.append(Topic(any_of=words, at_least=len(words)))
    rule = AnyOf(parts=tuple(listed))
    assert ((rule.mask(windows.texts) & windows.counted).any(1)).mean() > 0.95, "it knows its own windows"
    text = " ".join(f"“{word}”" for item in windows.words for word in item.lower().split())
    return replace(stating(rule, planted.FILLER[7]), input_clause=text)


def test_a_memoriser_scores_at_chance(name, scorer, views, bench):
    """A label that lists the very windows it was made from says nothing about other documents."""
    if not scorer.of_label or name in {"label_gap", "output_effect"}:
        pytest.skip("it does not hold a label against windows")
    values = []
    others = [memoriser(views, index) for index in range(20, 24)] if isinstance(scorer, Endpoint) else OTHERS
    for index in (planted.NOISE, planted.MEMORY):
        try:
            score = head(scorer, memoriser(views, index), views.score(index), bench, others)
        except Unscored:
            continue
        if scorer.metric != "auroc":
            assert score.lift_low <= 0.02 or abs(score.lift) < 0.05
        else:
            assert score.low <= 0.5 <= score.high or abs(score.value - 0.5) < 0.03
            values.append(score.value)
    if scorer.metric == "auroc":
        assert values, "a memoriser's label can be scored"
        assert np.mean(values) == pytest.approx(0.5, abs=0.07)


def test_shuffled_labels_score_at_chance(name, scorer, views, bench):
    """Labels of other features, taken for a feature's own, have no lift over further labels of other features."""
    if not scorer.of_label or name in {"label_gap", "output_effect", "judge"}:
        pytest.skip("it does not hold a label against windows")
    lifts = []
    for index in (planted.COURT, planted.YEARS, 20, 25):
        for place in (0,) if isinstance(scorer, Endpoint) else (0, 5):
            others = [*OTHERS[place + 1 :], *OTHERS[:place]]
            try:
                lifts.append(head(scorer, OTHERS[place], views.score(index), bench, others).lift)
            except Unscored:
                continue
    real = [lift for lift in lifts if lift is not None]
    assert real, "labels of other features can be scored"
    assert abs(np.mean(real)) < 0.12


def test_what_cannot_be_scored_says_why(name, scorer, views, bench):
    label = Label(text="no label", input_clause="", labeller="test", found=False)
    if scorer.of_label:
        with pytest.raises(Unscored, match=r"no rule|does not say|names no token"):
            head(scorer, label, views.score(planted.NOISE), bench)
    with pytest.raises(Unscored, match="0 windows"):
        head(scorer, OTHERS[0], views.score(planted.DEAD), bench)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A small store with labels, to be copied."""
    store = planted.store(tmp_path_factory.mktemp("small") / "features.db")
    label_features(store, LABELLERS["rules"]())
    store.close()
    return store.path


def test_scoring_keeps_failures_and_goes_on_where_it_was_cut_short(name, scorer, labelled, tmp_path):
    store = FeatureStore(shutil.copy(labelled, tmp_path / "features.db"))
    lab = planted.PlantedLab()
    assert score_features(store, scorer, indices=[0, planted.DEAD], lab=lab) == 2
    failed = store.feature(planted.DEAD).label.scores if scorer.of_label else store.feature(planted.DEAD).scores
    assert failed[0].failed
    assert failed[0].value is None
    left = store.unscored("rules" if scorer.of_label else "", name)
    assert left == [index for index in range(planted.D_SAE) if index not in {0, planted.DEAD}]
    assert score_features(store, scorer, indices=[1, 5], lab=lab) == 2
    assert score_features(store, scorer, indices=[1, 5], lab=lab) == 0
    shown = store.rows([planted.COURT])[0]
    assert (shown.score is not None) == scorer.shown
    store.close()


def test_rule_detection_reports_each_kind_of_negatives(views, bench):
    scores = SCORERS["rule_detection"]().score(stating(ShapeIs(shape="number")), views.score(planted.AFTER_OF), OTHERS, bench)
    metrics = {score.metric: score for score in scores}
    assert {"auroc", "average_precision", "balanced_accuracy", "auroc:top"} <= metrics.keys()
    kinds = [score.value for metric, score in metrics.items() if metric.startswith("auroc:") and metric != "auroc:top"]
    assert len(kinds) == 4
    assert metrics["auroc"].value == pytest.approx(np.mean(kinds))


def test_without_enough_other_labels_there_is_no_lift(views, bench):
    score = SCORERS["rule_detection"]().score(RIGHT, views.score(planted.COURT), OTHERS[:3], bench)[0]
    assert score.value > 0.97
    assert score.null is None
    assert score.lift is None


def test_an_oracle_reaches_the_ceiling(views, bench):
    """The planted rule tells at least as much as the examples do, and these tell much."""
    for index, rule in ((planted.COURT, TokenIs(any_of=("court",))), (planted.YEARS, ShapeIs(shape="number"))):
        gap, ceiling = SCORERS["label_gap"]().score(stating(rule), views.score(index), [], bench)
        assert ceiling.value > 0.7
        assert gap.value < 0.05


def test_purity_and_sensitivity_are_what_a_count_gives(views, bench):
    view, rule = views.score(planted.COURT), TokenIs(any_of=("court",))
    said = (rule.mask(view.sample.texts) & view.sample.counted).any(1)
    shares = SCORERS["sensitivity"]().score(RIGHT, view, OTHERS, bench)
    assert shares[0].value == pytest.approx((said & view.fires).sum() / said.sum())
    assert shares[1].value == pytest.approx(1)
    held, precise = SCORERS["purity"]().score(RIGHT, view, OTHERS, bench)
    alarms, rate = (said & ~view.fires).sum() / (~view.fires).sum(), view.base_rate
    assert held.value == 1
    assert precise.value == pytest.approx(rate / (rate + (1 - rate) * alarms))


def test_few_windows_are_flagged(tmp_path):
    store = planted.store(tmp_path / "features.db", CollectConfig(**{**vars(planted.CONFIG), "score": 5}))
    views = Views(store)
    score = SCORERS["rule_detection"]().score(RIGHT, views.score(planted.COURT), OTHERS, Bench(views))[0]
    assert score.insufficient
    assert score.value > 0.9
    store.close()


CHATS = {"detection": 0.5, "fuzzing": 0.5, "simulation": 0.0, "judge": 0.5, "intruder_chat": 0.2}
"""Scorers over an endpoint, and what each gives to one who guesses."""


@pytest.mark.parametrize("name", CHATS)
def test_an_oracle_behind_the_endpoint_is_right(name, views, bench, url):
    """Save where a silent window shows the word in its left context, or one about law shows none of its words."""
    feature = planted.TOPIC if name == "intruder_chat" else planted.COURT
    score = head(SCORERS[name](url=url, parallel=1), RIGHT, views.score(feature), bench)
    assert score.value > {"detection": 0.75, "intruder_chat": 0.85}.get(name, 0.95)
    assert score.failures == 0


@pytest.mark.parametrize("name", CHATS)
def test_one_who_guesses_scores_at_chance(name, views, bench, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    more = {"intruder_chat": {"groups": 30}, "judge": {"nulls": 8}, "simulation": {"windows": 3}}.get(name, {})
    with serving(guesser) as endpoint:
        scorer = SCORERS[name](url=endpoint.url, parallel=1, **more)
        scores = [head(scorer, RIGHT, views.score(index), bench) for index in (planted.COURT, planted.YEARS, 20, 25)]
    assert all(score.failures == 0 for score in scores)
    assert np.mean([score.value for score in scores]) == pytest.approx(CHATS[name], abs=0.1)
    assert any(score.lift_low <= 0 for score in scores)


@pytest.mark.parametrize("name", CHATS)
def test_answers_that_cannot_be_read_count_as_wrong(name, views, bench, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with serving(lambda messages: json.dumps({"no": "array"})) as endpoint:
        scorer = SCORERS[name](url=endpoint.url)
        score = head(scorer, RIGHT, views.score(planted.COURT), bench)
    assert score.failures == 1
    assert score.value <= 0.01
