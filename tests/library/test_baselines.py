import pytest
import torch

from saelab.baselines.neurons import Neurons
from saelab.baselines.pca import PCA
from saelab.baselines.random import Random
from saelab.errors import Invalid


def rows(num=2000, d_in=12):
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(d_in, d_in, generator=generator) * torch.logspace(1, -1, d_in)
    return torch.randn(num, d_in, generator=generator) @ mixing + 5


def fvu(dictionary, x):
    error = (x - dictionary.decode(dictionary.encode(x))).double().square().sum()
    return float(error / (x - x.mean(0)).double().square().sum())


def test_neurons_keep_the_dimensions_furthest_from_their_mean():
    x = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, -3.0], [1.0, 8.0, 0.0]])
    dictionary = Neurons.fit(x, k=1)
    assert torch.equal(dictionary.encode(x).dense(), torch.tensor([[0.0, 0.0, 3.0], [0.0, 0.0, -3.0], [0.0, 4.0, 0.0]]))
    assert torch.equal(dictionary.decode(dictionary.encode(x))[2], torch.tensor([1.0, 8.0, 0.0]))


@pytest.mark.parametrize("kind", [Neurons, PCA])
def test_a_complete_basis_with_every_direction_loses_nothing(kind):
    x = rows()
    assert fvu(kind.fit(x, k=12), x) < 1e-9


def test_pca_explains_at_least_the_variance_of_its_first_components():
    x = rows()
    spectrum = torch.linalg.svdvals((x - x.mean(0)).double()).square()
    assert fvu(PCA.fit(x, k=3), x) <= float(spectrum[3:].sum() / spectrum.sum()) + 1e-6


def test_pca_directions_are_orthogonal_and_strongest_first():
    x = rows()
    dictionary = PCA.fit(x, k=3)
    assert torch.allclose(dictionary.directions @ dictionary.directions.T, torch.eye(12), atol=1e-5)
    variances = ((x - x.mean(0)) @ dictionary.directions.T).var(0)
    assert torch.all(variances[:-1] >= variances[1:])


def test_random_directions_have_the_least_squares_gain():
    x = rows()
    dictionary = Random.fit(x, k=4, d_sae=40, seed=3)
    best = fvu(dictionary, x)
    for factor in (0.95, 1.05):
        dictionary.encoder.mul_(factor)
        assert fvu(dictionary, x) > best
        dictionary.encoder.div_(factor)


def test_baselines_order_as_they_should():
    x = rows()
    assert fvu(PCA.fit(x, 4), x) < fvu(Neurons.fit(x, 4), x) < 1
    assert fvu(Random.fit(x, 4), x) < 1


def test_a_constant_sample_is_no_division_by_zero():
    x = torch.ones(10, 12)
    for kind in (Neurons, PCA, Random):
        dictionary = kind.fit(x, k=2)
        assert torch.allclose(dictionary.decode(dictionary.encode(x)), x)


def test_more_active_directions_than_there_are_is_refused():
    with pytest.raises(Invalid, match="k is 13; it must be between 1 and the number of directions, 12"):
        Neurons.fit(rows(), k=13)
