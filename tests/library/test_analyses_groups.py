"""Groups of layers: angles known beforehand, and neighbours that belong together."""

import pytest
import torch

from saelab.analyses.groups import angular_distances, layer_groups
from saelab.errors import Invalid


def test_distances_are_mean_angles_in_half_turns():
    east, north = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0])
    rows = torch.stack([torch.stack([east, north, -2 * east]), torch.stack([east, 5 * east, -2 * east])])
    expected = torch.tensor([[0, 0.25, 1], [0.25, 0, 0.75], [1, 0.75, 0]], dtype=torch.float64)
    assert torch.allclose(angular_distances([rows]), expected)
    assert torch.allclose(angular_distances(rows.split(1)), expected), "the mean is over rows, not over batches"


def test_distances_do_not_depend_on_the_size_of_activations():
    x = torch.randn(16, 4, 8, generator=torch.Generator().manual_seed(0))
    sizes = torch.tensor([1.0, 10, 0.1, 1000])[:, None]
    assert torch.allclose(angular_distances([x]), angular_distances([x * sizes]), atol=1e-6)


def test_layers_that_turn_slowly_stay_together():
    angles = torch.tensor([0.0, 0.1, 0.2, 1.2, 1.3, 2.4, 2.45])
    x = torch.stack([angles.cos(), angles.sin()], dim=-1)[None]
    distances = angular_distances([x])
    assert layer_groups(distances, 3) == ((0, 1, 2), (3, 4), (5, 6))
    assert layer_groups(distances, 7) == tuple((layer,) for layer in range(7))
    assert layer_groups(distances, 1) == (tuple(range(7)),)


def test_layers_that_are_alike_but_not_neighbours_are_kept_apart():
    x = torch.stack([torch.eye(2)[layer % 2] for layer in range(4)])[None]
    groups = layer_groups(angular_distances([x]), 2)
    assert [layer for group in groups for layer in group] == [0, 1, 2, 3]


@pytest.mark.parametrize("num_groups", [0, 3])
def test_an_impossible_number_of_groups_is_refused(num_groups):
    with pytest.raises(Invalid, match=f"num_groups is {num_groups}; it must be from 1 to .* 2"):
        layer_groups(torch.zeros(2, 2), num_groups)


def test_no_activations_are_refused():
    with pytest.raises(Invalid, match="no activations"):
        angular_distances([])
