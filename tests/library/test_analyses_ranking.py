"""Ranking: AUROCs of all features at once against pairs counted one by one, and the corrections for many tests."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from scipy import sparse

from saelab.analyses.ranking import Ranking, auroc, auroc_draws, benjamini_hochberg, holm, p_above_zero


def counted(scores, positive) -> float:
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[positive] for b in scores[~positive]]
    return float(np.mean(pairs))


@given(some.lists(some.tuples(some.integers(-2, 3), some.booleans()), min_size=2, max_size=30))
def test_every_auroc_is_that_of_the_pairs_whatever_the_signs_and_ties(rows):
    scores, positive = np.array([row[0] for row in rows], float), np.array([row[1] for row in rows])
    ranking = Ranking(sparse.csr_array(np.stack([scores, -scores, np.zeros(len(rows))], axis=1)))
    found = ranking.aurocs(positive[:, None])[:, 0]
    if positive.all() or not positive.any():
        assert np.isnan(found).all()
        return
    assert found == pytest.approx([counted(scores, positive), counted(-scores, positive), 0.5])
    drawn = auroc_draws(scores, positive, np.arange(len(rows)), np.ones((1, len(rows))))
    assert drawn[0] == pytest.approx(found[0])


def test_the_interval_is_wider_where_documents_are_alike_inside():
    draw = np.random.default_rng(0)
    level = draw.standard_normal(20)
    positive = np.tile([True, False], 200)
    own = np.where(positive, 0.5, 0.0) + draw.standard_normal(400)
    shared = np.where(positive, 0.5, 0.0) + 3 * np.repeat(level, 20) * np.where(positive, 1, -1) + 0.1 * draw.standard_normal(400)
    documents = np.repeat(np.arange(20), 20)
    widths = [found.high - found.low for found in (auroc(scores, positive, documents, 0) for scores in (own, shared))]
    assert widths[1] > 2 * widths[0]
    assert auroc(own, np.ones(400, bool), documents, 0) is None


def test_corrections_are_those_of_the_definitions():
    p = np.array([0.01, 0.04, 0.03, 0.005])
    assert holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert benjamini_hochberg(p) == pytest.approx([0.02, 0.04, 0.04, 0.02])


def test_a_difference_far_above_its_error_is_significant_and_none_is_not():
    draw = np.random.default_rng(0)
    noise = 0.1 * draw.standard_normal(500)
    assert p_above_zero(np.concatenate([[0.5], 0.5 + noise])) < 1e-4
    assert p_above_zero(np.concatenate([[0.0], noise])) == pytest.approx(0.5)
    assert p_above_zero(np.array([0.2])) == 0
    assert p_above_zero(np.array([0.0, 0.0, 0.0])) == 1
