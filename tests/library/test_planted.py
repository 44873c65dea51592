"""Vectors with planted features: what is planted is there, as often and as strongly as was asked for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saelab.errors import Invalid
from saelab.planted import MAX_RATE, Planted, World


def world(**changes) -> World:
    return World(Planted(**{"d_in": 16, "num_features": 40, "l0": 3.0, **changes}))


def correlations(made: World) -> torch.Tensor:
    return torch.corrcoef(made.batch(40_000).firing.double().T)


def test_rows_are_sums_of_the_directions_with_their_values_and_the_bias():
    made = world(mean=5.0, strength=2.0, spread=0.25)
    rows = made.batch(500)
    z = rows.codes.dense()
    assert torch.allclose(rows.x, z @ made.directions + made.bias, atol=1e-5)
    assert float(made.bias.norm()) == pytest.approx(5.0)
    assert torch.allclose(made.directions.norm(dim=1), torch.ones(40))
    assert float(z[z != 0].min()) >= 1.5
    assert float(z.max()) <= 2.5
    assert float(z[z != 0].mean()) == pytest.approx(2.0, abs=0.02)


def test_noise_has_the_given_size():
    made = world(noise=0.3)
    rows = made.batch(5000)
    assert float((rows.x - rows.codes.dense() @ made.directions).std()) == pytest.approx(0.3, rel=0.02)


@settings(deadline=None, max_examples=12)
@given(
    firing=st.sampled_from(["uniform", "zipf"]),
    tie=st.sampled_from([{}, {"correlation": 0.6}, {"hierarchy": 1.0}, {"hierarchy": 0.5}]),
    size=st.integers(2, 7),
    l0=st.floats(0.5, 10.0),
)
def test_every_feature_fires_at_its_rate(firing, tie, size, l0):
    made = world(firing=firing, l0=l0, group_size=size, **tie)
    found = made.batch(20_000).firing.double().mean(0)
    assert float(made.rates.sum()) == pytest.approx(l0)
    assert float(made.rates.max()) <= MAX_RATE
    error = (made.rates * (1 - made.rates) / 20_000).sqrt()
    assert bool(((found - made.rates).abs() < 5 * error + 1e-4).all())


def test_zipf_rates_fall_with_the_number_of_the_feature():
    rates = world(num_features=100, l0=2.0, firing="zipf").rates
    assert torch.allclose(rates[0] / rates, torch.arange(1.0, 101.0).double())


def test_correlation_is_that_of_two_features_of_a_group_and_of_no_others():
    found = correlations(world(group_size=4, correlation=0.5))
    group = torch.arange(40) // 4
    same = (group == group[:, None]) & ~torch.eye(40, dtype=torch.bool)
    assert float(found[same].mean()) == pytest.approx(0.5, abs=0.02)
    assert float(found[group != group[:, None]].abs().max()) < 0.03


def test_a_child_never_fires_without_its_parent():
    made = world(num_features=42, group_size=4, hierarchy=1.0)  # the last group is smaller
    firing = made.batch(20_000).firing
    assert made.parents.tolist()[:6] == [-1, 0, 0, 0, -1, 4]
    children = (made.parents >= 0).nonzero()[:, 0]
    assert not bool((firing[:, children] & ~firing[:, made.parents[children]]).any())
    alone = firing[:, 0] & ~firing[:, 1:4].any(1)
    assert 0.2 < float(alone.sum() / firing[:, 0].sum()) < 0.6


def test_part_of_a_hierarchy_lets_some_children_fire_alone():
    made = world(group_size=4, hierarchy=0.5)
    firing = made.batch(40_000).firing
    with_parent = float(firing[firing[:, 0], 1].double().mean())
    without = float(firing[~firing[:, 0], 1].double().mean())
    assert without == pytest.approx(0.5 * with_parent, rel=0.15)


def test_as_many_features_as_dimensions_are_orthogonal_and_more_are_in_superposition():
    few, many = world(num_features=16).directions, world(num_features=40).directions
    assert torch.allclose(few @ few.T, torch.eye(16), atol=1e-5)
    assert float((many @ many.T - torch.eye(40)).abs().max()) > 0.4


@pytest.mark.parametrize("coherence", [0.0, 0.3, 0.8])
def test_coherence_is_the_mean_cosine(coherence):
    directions = World(Planted(d_in=256, num_features=400, l0=3.0, coherence=coherence)).directions
    cosines = (directions @ directions.T)[~torch.eye(400, dtype=torch.bool)]
    assert float(cosines.mean()) == pytest.approx(coherence, abs=0.03)


def test_a_batch_follows_from_its_number():
    made = world(noise=0.1, group_size=4, correlation=0.2, hierarchy=0.5)
    stream = [rows.x for rows, _ in zip(made.batches(8, seed=3), range(5), strict=False)]
    again = next(world(noise=0.1, group_size=4, correlation=0.2, hierarchy=0.5).batches(8, seed=3, start_step=4))
    assert torch.equal(again.x, stream[4])
    assert not torch.equal(stream[3], stream[4])
    assert not torch.equal(made.batch(8, 4, seed=4).x, stream[4])
    assert not torch.equal(made.batch(8, 4, seed=3).x, world(seed=1).batch(8, 4, seed=3).x)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_in": 0}, "d_in is 0; it must be at least 1"),
        ({"l0": 20.0}, "l0 is 20.0; it must lie between 0 and half the number of features, 20"),
        ({"coherence": 1.0}, "coherence is 1.0; it must be from 0 to below 1"),
        ({"correlation": 1.5, "group_size": 2}, "correlation is 1.5; it must be from 0 to 1"),
        ({"hierarchy": 1.0}, "group_size must be 2 or more"),
        ({"noise": -1.0}, "noise is -1.0; it must not be negative"),
    ],
)
def test_a_world_that_cannot_be_is_refused_with_the_name_of_the_field(changes, message):
    with pytest.raises(Invalid, match=message):
        world(**changes)
