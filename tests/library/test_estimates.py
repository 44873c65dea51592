"""Estimates: ratios of sums with intervals over whole documents."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saelab.errors import Invalid
from saelab.estimates import mean, ratio, share


def parts(seed: int = 0, documents: int = 40, each: int = 10):
    """Numerators and denominators of parts of some documents; the parts of one document are alike."""
    draw = np.random.default_rng(seed)
    document = np.repeat(np.arange(documents), each)
    top = np.repeat(draw.gamma(4.0, 1.0, documents), each)
    return top, np.ones(documents * each), document


def test_it_is_the_ratio_of_the_sums():
    found = ratio(np.array([1.0, 2.0, 6.0]), np.array([1.0, 1.0, 4.0]), np.array([0, 1, 2]))
    assert found.value == 9 / 6
    assert found.n == 3


def test_documents_count_not_their_parts():
    top, bottom, document = parts()
    whole = [np.bincount(document, weights=part) for part in (top, bottom)]
    a, b = ratio(top, bottom, document), ratio(whole[0], whole[1], np.arange(40))
    assert a.n == b.n == 40
    assert (a.low, a.high) == pytest.approx((b.low, b.high))


def test_the_interval_is_about_two_standard_errors_over_documents():
    top, bottom, document = parts()
    found = ratio(top, bottom, document)
    error = top[::10].std(ddof=1) / 40**0.5
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.15)


def test_the_interval_covers_the_truth_nineteen_times_in_twenty():
    hits = sum(found.low <= 4.0 <= found.high for found in (ratio(*parts(seed)) for seed in range(200)))
    assert 175 <= hits <= 199


def test_a_single_document_has_no_interval():
    found = ratio(np.array([3.0, 1.0]), np.array([2.0, 2.0]), np.array([7, 7]))
    assert (found.value, found.low, found.high, found.n) == (1.0, None, None, 1)


def test_the_seed_decides():
    assert ratio(*parts(), seed=1) == ratio(*parts(), seed=1) != ratio(*parts(), seed=2)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 100), st.floats(0.01, 100), st.integers(0, 5)), min_size=2, max_size=30), st.integers(0, 99))
def test_numbers_of_documents_and_the_order_of_parts_do_not_matter(items, seed):
    top, bottom, document = (np.array(column) for column in zip(*items, strict=True))
    order = np.random.default_rng(seed).permutation(len(items))
    found = ratio(top, bottom, document)
    moved = ratio(top[order], bottom[order], 1000 + 3 * document[order])
    assert moved.value == pytest.approx(found.value)
    assert moved.n == found.n
    if found.low is not None:
        assert (moved.low, moved.high) == pytest.approx((found.low, found.high))
        assert (top / bottom).min() - 1e-9 <= found.low <= found.high <= (top / bottom).max() + 1e-9


def test_a_share_that_was_counted_has_no_interval():
    found = share(3, 12)
    assert (found.value, found.low, found.high, found.n) == (0.25, None, None, 12)


def test_the_interval_of_a_mean_is_that_of_student():
    found = mean(np.array([1.0, 2.0, 3.0, 6.0]))
    assert (found.value, found.n) == (3.0, 4)
    half = 3.182446 * (14 / 3) ** 0.5 / 2  # the t quantile of three degrees of freedom times the standard error
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half), rel=1e-4)


def test_a_mean_of_one_item_has_no_interval_and_of_none_is_refused():
    assert mean(np.array([2.0])).low is None
    with pytest.raises(Invalid, match="no items"):
        mean(np.array([]))
