import pytest
from hypothesis import given
from hypothesis import strategies as st

from saelab.schedules import cosine, learning_rate, linear


@given(way=st.floats(0, 10), length=st.floats(0, 10))
def test_ramps_stay_between_zero_and_one_and_end_at_one(way, length):
    for ramp in (linear, cosine):
        assert 0 <= ramp(way, length) <= 1
        assert ramp(length, length) == 1
        assert way == 0 or ramp(way, 0.0) == 1


@given(first=st.floats(0, 1), second=st.floats(0, 1))
def test_ramps_never_fall(first, second):
    low, high = sorted((first, second))
    assert linear(low, 0.7) <= linear(high, 0.7)
    assert cosine(low, 0.7) <= cosine(high, 0.7) + 1e-15


def test_ramps_pass_through_the_middle():
    assert linear(1.0, 4.0) == 0.25
    assert cosine(2.0, 4.0) == pytest.approx(0.5)
    assert cosine(1.0, 4.0) < 0.25 < 0.75 < cosine(3.0, 4.0)


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_the_learning_rate_rises_stays_and_falls_in_either_shape(shape):
    rates = [learning_rate(step, 100, warmup=10, decay=0.2, shape=shape) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[10:81] == [1.0] * 71
    assert rates[90] == pytest.approx(0.5)
    assert 0 < rates[99] < 0.051


def test_without_warmup_and_decay_the_learning_rate_is_constant():
    assert {learning_rate(step, 50, warmup=0, decay=0.0) for step in range(50)} == {1.0}
