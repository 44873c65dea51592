"""What every registered scorer must do."""

import numpy as np
import planted
import pytest

from saelab.errors import Unscored
from saelab.features.collect import CollectConfig
from saelab.features.views import Views
from saelab.labellers.base import LABELLERS, label_features
from saelab.labellers.predicates import AnyOf, Rule, ShapeIs, TokenIs, Topic, write
from saelab.records import Label
from saelab.scorers.base import SCORERS, score_features
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


@pytest.fixture(params=SCORERS)
def name(request):
    return request.param


def stating(rule: Rule) -> Label:
    return Label(text=rule.words(), input_clause=rule.words(), labeller="test", predicate=write(rule))


OTHERS = [stating(TokenIs(any_of=(word.strip(),))) for word in planted.FILLER[:12]]


def test_a_scorer_is_its_own_config(name):
    scorer = SCORERS[name]()
    assert from_json(type(scorer), to_json(scorer)) == scorer


def test_the_right_rule_scores_near_one_and_a_wrong_one_near_a_half(name, views):
    scorer = SCORERS[name]()
    right = scorer.score(stating(TokenIs(any_of=("court",))), views.score(planted.COURT), OTHERS)[0]
    assert right.metric == scorer.metric
    assert right.value > 0.97
    assert right.lift_low > 0.3
    assert right.n == 80
    assert not right.insufficient
    wrong = scorer.score(stating(TokenIs(any_of=(planted.FILLER[40].strip(),))), views.score(planted.COURT), OTHERS)[0]
    assert wrong.value == pytest.approx(0.5, abs=0.1)
    assert wrong.lift_low < 0.05


def test_a_memoriser_scores_at_chance(name, views):
    """A label that lists the very windows it was made from says nothing about other documents."""
    scorer = SCORERS[name]()
    values = []
    for index in (planted.NOISE, planted.MEMORY):
        windows = views.explain(index).positives
        listed = []
        for row, counted in zip(windows.texts.folded, windows.counted, strict=True):
            words = tuple(sorted({windows.texts.vocabulary.fold_texts[form] for form in row[counted]}))
            listed.append(Topic(any_of=words, at_least=len(words)))
        rule = AnyOf(parts=tuple(listed))
        seen = (rule.mask(windows.texts) & windows.counted).any(1)
        assert seen.mean() > 0.95, "it knows its own windows"
        score = scorer.score(stating(rule), views.score(index), OTHERS)[0]
        assert score.low <= 0.5 <= score.high or abs(score.value - 0.5) < 0.03
        values.append(score.value)
    assert np.mean(values) == pytest.approx(0.5, abs=0.06)


def test_without_enough_other_labels_there_is_no_lift(name, views):
    score = SCORERS[name]().score(stating(TokenIs(any_of=("court",))), views.score(planted.COURT), OTHERS[:3])[0]
    assert score.value > 0.97
    assert score.null is None
    assert score.lift is None


def test_a_label_without_a_rule_has_no_score(name, views):
    label = Label(text="no simple rule found", input_clause="", labeller="test", found=False)
    with pytest.raises(Unscored, match="no rule"):
        SCORERS[name]().score(label, views.score(planted.NOISE), OTHERS)
    with pytest.raises(Unscored, match="0 windows"):
        SCORERS[name]().score(OTHERS[0], views.score(planted.DEAD), OTHERS)


def test_scoring_keeps_failures_and_goes_on_where_it_was_cut_short(name, tmp_path):
    store = planted.store(tmp_path / "features.db")
    label_features(store, LABELLERS["rules"]())
    scorer = SCORERS[name]()
    assert score_features(store, scorer, indices=[0, planted.DEAD]) == 2
    assert store.feature(planted.DEAD).label.scores[0].failed == "the labeller found no rule to score"
    assert store.rows([planted.DEAD])[0].score is None
    assert score_features(store, scorer) == planted.D_SAE - 2
    assert score_features(store, scorer) == 0
    assert store.rows([planted.COURT])[0].lift > 0.3
    store.close()


def test_rule_detection_reports_each_kind_of_negatives(views):
    scores = SCORERS["rule_detection"]().score(stating(ShapeIs(shape="number")), views.score(planted.AFTER_OF), OTHERS)
    metrics = {score.metric: score for score in scores}
    assert {"auroc", "average_precision", "balanced_accuracy"} <= metrics.keys()
    kinds = [score.value for metric, score in metrics.items() if metric.startswith("auroc:")]
    assert len(kinds) == 4
    assert metrics["auroc"].value == pytest.approx(np.mean(kinds))


def test_few_windows_are_flagged(tmp_path):
    store = planted.store(tmp_path / "features.db", CollectConfig(**{**vars(planted.CONFIG), "score": 5}))
    score = SCORERS["rule_detection"]().score(stating(TokenIs(any_of=("court",))), Views(store).score(planted.COURT), OTHERS)[0]
    assert score.insufficient
    assert score.value > 0.9
    store.close()
