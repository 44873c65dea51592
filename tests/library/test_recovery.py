"""Recovery: the truth scores 1, luck scores what luck gives, and each failure shows in its own measure."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saelab.analyses.recovery import Recovery, matched, over_seeds, recovery
from saelab.baselines.pca import PCA
from saelab.baselines.random import Random
from saelab.dictionary import Codes
from saelab.errors import Invalid
from saelab.planted import Planted, World

PLAIN = World(Planted(d_in=12, num_features=12, l0=2.0, mean=1.0))
TREES = World(Planted(d_in=12, num_features=12, l0=2.0, group_size=3, hierarchy=1.0))


class Knowing(PCA):
    """Codes and directions of a world with orthogonal features, made from the truth; `absorbing` silences parents with a child."""

    def __init__(self, world: World, absorbing: bool = False):
        super().__init__(world.config.d_in, world.config.num_features, 1)
        self.world, self.absorbing = world, absorbing
        weights = {"W_enc": world.directions.T, "W_dec": world.directions, "b_dec": world.bias}
        self.assign({**weights, "b_enc": torch.zeros(world.config.num_features)})

    def encode(self, x):
        z = (x - self.b_dec) @ self.encoder.T
        z = z * (z.abs() > 0.1)
        if self.absorbing:
            for child, parent in enumerate(self.world.parents.tolist()):
                if parent >= 0:
                    z[:, parent] *= z[:, child] == 0
        return Codes.from_dense(z)


def test_the_truth_scores_one():
    found = recovery(Knowing(PLAIN), PLAIN, 4000)
    perfect = (found.mcc, found.found, found.precision, found.recall, found.f1)
    assert perfect == pytest.approx((1, 1, 1, 1, 1), abs=1e-6)
    assert found.fvu < 1e-9
    assert found.l0 == pytest.approx(2.0, rel=0.05)
    assert found.dead == 0
    assert found.absorbed is None
    assert found.missed is None


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 1000))
def test_order_sign_and_length_of_the_features_do_not_matter(seed):
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(12, generator=draw)
    factors = torch.randn(12, 1, generator=draw)
    partners, cosines = matched(PLAIN.directions[order] * factors, PLAIN.directions)
    assert torch.equal(order[partners], torch.arange(12))
    assert torch.allclose(cosines, torch.ones(12).double())


def test_the_matching_is_one_to_one_and_the_best_there_is():
    rows = torch.tensor([[1.0, 0.2], [1.0, 0.0]])
    truth = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    partners, cosines = matched(rows, truth)  # the first row is closest to both
    assert partners.tolist() == [1, 0]
    assert cosines.tolist() == pytest.approx([1.0, (0.8 + 0.12) / 1.04**0.5])


def test_a_planted_feature_without_a_partner_counts_nothing():
    partners, cosines = matched(PLAIN.directions[:3], PLAIN.directions)
    assert partners.tolist() == [0, 1, 2] + [-1] * 9
    assert float(cosines.mean()) == pytest.approx(3 / 12)
    superposed = World(Planted(d_in=12, num_features=48, l0=2.0))
    assert recovery(PCA.fit(superposed.batch(2000).x, 2), superposed, 2000).mcc < 12 / 48


def test_negative_codes_fire_too():
    flipped = Knowing(PLAIN)
    flipped.decoder.neg_()
    flipped.encoder.neg_()
    assert recovery(flipped, PLAIN, 2000).f1 == pytest.approx(1)


def test_a_silent_feature_costs_recall_and_is_dead_and_a_loose_one_costs_precision():
    silent, loose = Knowing(PLAIN), Knowing(PLAIN)
    silent.encoder[0] = 0
    loose.encoder[0] += PLAIN.directions[1]
    found = recovery(silent, PLAIN, 4000)
    assert (found.recall, found.precision, found.dead) == pytest.approx((11 / 12, 11 / 12, 1 / 12))
    found = recovery(loose, PLAIN, 4000)
    assert found.recall == pytest.approx(1)
    assert 11 / 12 < found.precision < 11.8 / 12


def test_absorption_shows_where_a_parent_is_silent_with_its_child_alone():
    assert recovery(Knowing(TREES), TREES, 4000).absorbed == 0
    found = recovery(Knowing(TREES, absorbing=True), TREES, 4000)
    assert (found.absorbed, found.missed) == (1, 0)
    assert found.mcc == pytest.approx(1)


def test_random_directions_recover_little():
    superposed = World(Planted(d_in=12, num_features=48, l0=2.0))
    found = recovery(Random.fit(superposed.batch(2000).x, 2, d_sae=48), superposed, 2000)
    assert found.mcc < 0.7
    assert found.found < 0.2
    assert found.f1 < 0.3


def test_a_measure_over_seeds_has_an_interval_and_one_that_does_not_apply_is_left_out():
    one = recovery(Knowing(PLAIN), PLAIN, 100)
    found = over_seeds([replace(one, mcc=value) for value in (0.5, 0.6, 0.7)])
    assert set(found) == {name for name in vars(one)} - {"absorbed", "missed"}
    assert found["mcc"].value == pytest.approx(0.6)
    assert found["mcc"].high - found["mcc"].value == pytest.approx(4.303 * 0.1 / 3**0.5, rel=1e-3)  # t of two degrees of freedom
    assert isinstance(one, Recovery)


def test_rows_and_widths_that_do_not_fit_are_refused():
    with pytest.raises(Invalid, match="num_rows is 1"):
        recovery(Knowing(PLAIN), PLAIN, 1)
    with pytest.raises(Invalid, match="reads rows of 12 values; the planted ones have 7"):
        recovery(Knowing(PLAIN), World(Planted(d_in=7, num_features=8, l0=1.0)))
