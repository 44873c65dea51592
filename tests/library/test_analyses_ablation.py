"""SCR, TPP and unlearning where the answer is known: planted attributes, classes and domains."""

from dataclasses import replace

import numpy as np
import pytest
from confounded import SPURIOUS, WANTED, WIDTH, classes, confounded
from folders import SOURCE
from scipy import sparse

from saelab.analyses.ablation import TO, effects, normal, probe, strongest
from saelab.analyses.means import OWN, dictionaries_of, means_of, window_parts
from saelab.analyses.scr import SCR, at_random
from saelab.analyses.shift import Shift
from saelab.analyses.spurious import BIASED, Scores
from saelab.analyses.tpp import drops, intended, targeted, unintended
from saelab.analyses.unlearning import Unlearning
from saelab.errors import Invalid, NotFound
from saelab.interop.saebench import envelope
from saelab.lab import Lab


def test_the_dictionary_with_the_spurious_attribute_as_one_feature_removes_the_bias_and_random_features_do_not():
    biased = confounded(low=-1.0)
    assert (biased.wanted, biased.unwanted) == ("job", "gender"), "the probe follows what is easier"
    assert strongest(biased.effects[OWN], 1).tolist() == [SPURIOUS]
    scores = Scores([biased], seed=0)
    for to in TO:
        found = scores.score([biased.right(biased.sets[OWN].without(np.array([SPURIOUS]), to))])
        assert found.value > 0.9
        assert found.low > 0.8
    others = replace(biased.sets[OWN], alive=np.setdiff1d(biased.sets[OWN].alive, [WANTED, SPURIOUS]))
    null = scores.score([at_random(replace(biased, sets={OWN: others}), 2, "zero", 5, 0)])
    assert abs(null.value) < 0.05


def test_scr_is_the_formula_recomputed_by_hand_on_changed_activations():
    biased = confounded(low=-1.0)
    rows = len(biased.positive)
    draw, features = np.random.default_rng(1), np.array([SPURIOUS, 11, 20])
    tests, scores = biased.sets[OWN], Scores([biased], seed=0)
    x, answers = draw.standard_normal((rows, WIDTH)), draw.random(rows) < 0.5
    model = probe(x, answers)
    z = tests.codes.toarray()
    moved = replace(tests, answers=np.stack([model.scores(x)] * 2, axis=1), pulls=np.stack([normal(model)] * 2, axis=1))
    for to, centre in (("zero", np.zeros(WIDTH)), ("mean", tests.centre)):
        changed = x.copy()
        for text in range(rows):
            for feature in features:
                changed[text] -= (z[text, feature] - centre[feature]) * np.eye(WIDTH)[feature]
        assert np.allclose(moved.without(features, to)[:, BIASED], model.scores(changed))
    right = biased.right(tests.without(features, "zero"))
    base, oracle = biased.right(tests.answers).mean(), biased.oracle.mean()
    assert scores.score([right]).value == pytest.approx((right.mean() - base) / (oracle - base))


def test_effects_are_differences_of_means_times_what_a_feature_adds_to_the_probe():
    draw = np.random.default_rng(2)
    z, positive, pull = draw.random((40, 6)), draw.random(40) < 0.4, draw.standard_normal(6)
    gap = [z[positive, f].mean() - z[~positive, f].mean() for f in range(6)]
    assert effects(sparse.csr_array(z), positive, pull) == pytest.approx(np.array(gap) * pull)
    assert effects(sparse.csr_array(z), positive, pull, above=True) == pytest.approx(np.maximum(gap, 0) * pull)


def test_a_probe_that_learnt_no_bias_leaves_nothing_to_remove():
    biased = confounded(low=-1.0)
    fair = replace(biased, oracle=biased.right(biased.sets[OWN].answers))
    with pytest.raises(Invalid, match="nothing to gain"):
        Scores([fair], seed=0)


def test_features_of_one_class_hit_its_probe_alone_and_random_ones_none():
    found, accuracies = classes()
    best = [strongest(effect, 1) for effect in found.effects[OWN].T]
    assert [one.tolist() for one in best] == [[0], [1], [2], [3]]
    drop = drops(found, accuracies, OWN, best, "zero")
    assert targeted(drop)[0] > 0.25, "0.5 is the most: from 1 to chance"
    tests = replace(found.sets[OWN], alive=np.arange(4, WIDTH))
    null = drops(found, accuracies, OWN, tests.some(1, 4, 0), "zero")
    assert np.abs(targeted(null)).max() < 0.05


def test_tpp_is_the_formula_recomputed_by_hand():
    found, accuracies = classes()
    features = [np.array([0, 7]), np.array([1]), np.array([2, 3]), np.array([3])]
    drop, tests = drops(found, accuracies, OWN, features, "zero")[0], found.sets[OWN]
    z, falls = tests.codes.toarray(), np.zeros((4, 4))
    for taken in range(4):
        for asked in range(4):
            rows = found.asked[:, asked]
            without = tests.answers[:, asked] - sum(z[:, f] * tests.pulls[f, asked] for f in features[taken])
            right = [((answers > 0) == found.positive[:, asked])[rows].mean() for answers in (tests.answers[:, asked], without)]
            falls[taken, asked] = right[0] - right[1]
    assert drop == pytest.approx(falls)
    own = np.mean([falls[i, i] for i in range(4)])
    other = np.mean([falls[i, j] for i in range(4) for j in range(4) if i != j])
    assert [part(drop[None])[0] for part in (intended, unintended, targeted)] == pytest.approx([own, other, own - other])


@pytest.fixture(scope="module")
def lab(toy_run) -> Lab:
    return Lab(toy_run, SOURCE)


def test_means_are_those_of_the_rows_of_each_window(lab):
    windows = np.array([5, 900, 3])
    found = means_of(window_parts(lab, windows), 3, dictionaries_of(lab, 0))
    for number, window in enumerate(windows):
        chunk = next(chunk for chunk in lab.store.chunks() if (chunk.window == window).any())
        x = chunk.x[chunk.window == window].float()
        assert np.allclose(found.x[number], x.mean(0), atol=1e-5)
        assert np.allclose(found.codes[OWN][[number]].toarray()[0], lab.dictionary.encode(x).dense().mean(0), atol=1e-5)


def test_turning_round_the_features_of_a_planted_domain_hurts_that_domain_more_than_the_others(lab):
    report = Unlearning(forget=("cooking",), n=(8,), times=(4.0,), rows=10_000, windows=24, draws=2).answer(lab)
    (selective,) = report.measures
    assert selective.estimate.low > 0
    assert selective.estimate.low > selective.null.value
    content = envelope(replace(report, analysis="unlearning"), lab.dictionary)
    assert content["eval_type_id"] == "unlearning"
    assert content["eval_result_metrics"]["unlearning"] == {"unlearning_score": None}, "WMDP was not asked"
    assert content["eval_result_unstructured"]["saelab"]["experimental"]


def test_scr_and_tpp_stand_under_saebenchs_names_only_as_its_formula_has_them(lab):
    report = SCR(texts_from="corpus", pairs=1, rows=20, least=4, n=(2,), draws=1).answer(lab)
    content = envelope(replace(report, analysis="scr"), lab.dictionary)
    assert content["eval_result_metrics"]["scr_metrics"] == {"scr_metric_threshold_2": report.measures[0].estimate.value}
    assert report.measures[1].name == "scr_mean_n2"


def test_what_cannot_be_asked_is_refused_in_words(lab):
    with pytest.raises(Invalid, match="--wanted"):
        Shift().answer(lab)
    with pytest.raises(NotFound, match="attribute"):
        Shift(texts_from="corpus", wanted="domain lau", unwanted="questions").answer(lab)
    with pytest.raises(Invalid, match="features from 0"):
        Shift(texts_from="corpus", wanted="domain law", unwanted="questions", features=(999,)).answer(lab)
    with pytest.raises(NotFound, match="domain"):
        Unlearning(forget=("cookery",)).answer(lab)


def test_the_gap_is_that_of_the_test_texts_and_none_for_an_attribute_that_cannot_be_learnt():
    biased, hidden = confounded(low=-1.0), confounded(low=-1.0, wanted_scale=0.0)
    gap = biased.oracle.mean() - biased.right(biased.sets[OWN].answers).mean()
    assert biased.gap == pytest.approx(gap, abs=0.1)
    assert hidden.gap < 0.1, "following the other attribute costs nothing where the wanted one is not there"
