"""Probes: regression against the conditions of its optimum, and validation that does not see the test."""

import numpy as np
import pytest
from scipy import sparse
from scipy.special import expit

from saelab.analyses.logistic import fit, folds_of, strongest, validated
from saelab.analyses.tasks import balanced


def rows(n: int, d: int, seed: int = 0):
    draw = np.random.default_rng(seed)
    positive = draw.random(n) < 0.5
    return draw.standard_normal((n, d)) + np.where(positive, 1.0, 0.0)[:, None] * (np.arange(d) == 3), positive


def test_the_fit_is_where_the_gradient_vanishes():
    x, positive = rows(200, 6)
    model = fit(x, positive, None, (2.0,))[0]
    z = (x - model.centre) / model.scale
    residual = expit(z @ model.weights + model.bias) - positive
    assert z.T @ residual + 2.0 * model.weights == pytest.approx(np.zeros(6), abs=1e-3)
    assert residual.sum() == pytest.approx(0, abs=1e-3)


def test_the_column_that_differs_is_chosen_whatever_its_size_and_storage():
    x, positive = rows(300, 8)
    x[:, 5] *= 1e4
    x[:, 3] *= 1e-3
    assert strongest(x, positive, 1).tolist() == [3]
    assert strongest(sparse.csr_array(x), positive, 1).tolist() == [3]
    x[:, 0] = 7.0
    assert 0 not in strongest(x, positive, 6), "a constant tells nothing"


def test_noise_scores_at_chance_although_the_best_of_many_columns_is_chosen():
    draw = np.random.default_rng(0)
    found = [validated(draw.standard_normal((100, 2000)), draw.random(100) < 0.5, np.arange(100), 5, seed).auroc for seed in range(6)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.08)


def test_a_task_whose_rows_repeat_does_not_leak_over_groups():
    draw = np.random.default_rng(1)
    group = np.repeat(np.arange(40), 10)
    positive = np.repeat(draw.random(40) < 0.5, 10)
    x = np.repeat(draw.standard_normal((40, 30)), 10, axis=0) + 0.01 * draw.standard_normal((400, 30))
    assert validated(x, positive, np.arange(400), None, 0).auroc > 0.95
    assert validated(x, positive, group, None, 0).auroc < 0.75


def test_signal_is_found_and_folds_keep_groups_whole():
    x, positive = rows(200, 5)
    assert validated(x, positive, np.arange(200), 1, 0).auroc == pytest.approx(0.76, abs=0.08)
    assert validated(x, np.ones(200, bool), np.arange(200), 1, 0) is None
    folds = folds_of(np.array([5, 5, 9, 9, 1, 1]), 3, 0)
    assert folds[0] == folds[1]
    assert sorted(set(folds)) == [0, 1, 2]


def test_balanced_rows_are_as_many_of_either_kind():
    positive = np.arange(100) < 10
    chosen = balanced(positive, 50, np.random.default_rng(0))
    assert len(chosen) == 20
    assert positive[chosen].sum() == 10
    assert len(set(chosen.tolist())) == 20
