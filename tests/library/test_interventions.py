"""Interventions: what each op does to an activation, bit for bit where it must."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saelab.dictionary import Codes
from saelab.errors import Invalid, NotFound
from saelab.interventions import feature_edit
from saelab.records import Intervention


@dataclass
class Axes:
    """A dictionary of five axes: a feature is the positive part of a coordinate, and coordinates 5 to 7 are what it cannot explain."""

    d_in: int = 8
    d_sae: int = 5

    @property
    def directions(self):
        return torch.eye(8)[:5]

    def ordinary(self, x):
        return torch.ones(x.shape[:-1], dtype=torch.bool)

    def encode(self, x):
        return Codes.from_dense(x[..., :5].clamp_min(0))


ALL = torch.ones(2, 3, dtype=torch.bool)


@pytest.fixture
def x():
    return torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))


def edit(*items, max_acts=None):
    return feature_edit(Axes(), items, max_acts or {})


def test_add_moves_along_the_direction(x):
    out = edit(Intervention(feature=1, op="add", strength=3.0, unit="raw"))(x, ALL)
    torch.testing.assert_close(out - x, 3 * torch.eye(8)[1].expand(2, 3, 8))


def test_clamp_sets_the_feature_and_keeps_the_rest(x):
    out = edit(Intervention(feature=2, op="clamp", strength=2.5, unit="raw"))(x, ALL)
    active = x[..., 2] > 0
    assert torch.allclose(Axes().encode(out).dense()[..., 2][active], torch.tensor(2.5))
    others = [0, 1, 3, 4, 5, 6, 7]
    assert torch.equal(out[..., others], x[..., others])


def test_scale_and_ablate_act_only_where_the_feature_fires(x):
    silent = x[..., 0] <= 0
    for item in (Intervention(feature=0, op="scale", strength=4.0), Intervention(feature=0, op="ablate")):
        out = edit(item)(x, ALL)
        assert torch.equal(out[silent], x[silent])
        assert not torch.equal(out, x)


def test_a_strength_is_a_multiple_of_the_largest_activation(x):
    ours = edit(Intervention(feature=1, op="add", strength=0.5), max_acts={1: 8.0})(x, ALL)
    raw = edit(Intervention(feature=1, op="add", strength=4.0, unit="raw"))(x, ALL)
    assert torch.equal(ours, raw)


@given(st.permutations(range(3)))
def test_the_order_of_interventions_does_not_matter(order):
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1))
    items = [
        Intervention(feature=0, op="clamp", strength=2.0, unit="raw"),
        Intervention(feature=0, op="add", strength=1.0, unit="raw"),
        Intervention(feature=3, op="ablate"),
    ]
    torch.testing.assert_close(edit(*[items[i] for i in order])(x, ALL), edit(*items)(x, ALL))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_change_of_nothing_leaves_every_bit(x, dtype):
    x = x.to(dtype)
    nothing = [Intervention(feature=1, op="add", strength=0.0, unit="raw"), Intervention(feature=2, op="scale", strength=1.0)]
    assert torch.equal(edit(*nothing)(x, ALL), x)


def test_masked_positions_keep_every_bit(x):
    mask = torch.tensor([[True, False, True], [False, False, True]])
    out = edit(Intervention(feature=1, op="add", strength=3.0, unit="raw"))(x, mask)
    assert torch.equal(out[~mask], x[~mask])
    assert (out[mask] != x[mask]).any(-1).all()


def test_a_feature_out_of_range_is_refused():
    with pytest.raises(NotFound, match="0 to 4"):
        edit(Intervention(feature=5, op="ablate"))


def test_a_feature_that_never_fired_has_no_unit():
    with pytest.raises(Invalid, match="raw"):
        edit(Intervention(feature=1, op="add", strength=1.0), max_acts={1: 0.0})
