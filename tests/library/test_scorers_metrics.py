import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saelab.scorers.metrics import auroc, average_precisions, document_weights, interval, wins

ranks = st.lists(st.integers(0, 4), min_size=1, max_size=12)


@given(ranks, ranks)
def test_auroc_is_the_chance_that_a_positive_is_above_a_negative(up, down):
    expected = np.mean([(u > d) + (u == d) / 2 for u in up for d in down])
    one = auroc(wins(np.array([up]), np.array([down])), np.ones((1, len(up))), np.ones((1, len(down))))
    assert one[0, 0] == pytest.approx(expected)


@given(ranks, ranks)
def test_average_precision_is_that_of_a_half_positive_set(up, down):
    expected, before = 0.0, 0.0
    for level in sorted({*up, *down}, reverse=True):
        recall = np.mean([u >= level for u in up])
        alarms = np.mean([d >= level for d in down])
        expected += (recall - before) * recall / max(recall + alarms, 1e-12)
        before = recall
    assert average_precisions(np.array([up]), np.array([down]))[0] == pytest.approx(expected)


def test_a_weight_of_two_is_the_same_as_being_there_twice():
    up, down = np.array([[3, 1]]), np.array([[2, 0, 1]])
    doubled = auroc(wins(np.array([[3, 3, 1]]), down), np.ones((1, 3)), np.ones((1, 3)))
    assert auroc(wins(up, down), np.array([[2.0, 1.0]]), np.ones((1, 3))) == pytest.approx(doubled)


def test_a_draw_without_negatives_is_no_number_and_stays_out_of_the_interval():
    areas = auroc(wins(np.array([[1]]), np.array([[0]])), np.ones((2, 1)), np.array([[1.0], [0.0]]))
    assert areas[0, 0] == 1
    assert np.isnan(areas[1, 0])
    assert interval(np.full(30, np.nan)) == (None, None)


def test_windows_of_one_document_are_drawn_together():
    weights = document_weights(np.array([5, 5, 8, 9, 9]), 50, np.random.default_rng(0))
    np.testing.assert_array_equal(weights[:, 0], weights[:, 1])
    np.testing.assert_array_equal(weights[:, 3], weights[:, 4])
    assert (weights[:, [0, 2, 3]].sum(1) == 3).all()
