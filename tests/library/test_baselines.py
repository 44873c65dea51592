import pytest
import torch

from saelab.analyses.recovery import matched, recovery
from saelab.baselines.diff_mean import DiffMean
from saelab.baselines.ica import ICA
from saelab.baselines.neurons import Neurons
from saelab.baselines.pca import PCA
from saelab.baselines.probe import Probe
from saelab.baselines.random import Random
from saelab.errors import Invalid
from saelab.planted import Planted, World


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


@pytest.mark.parametrize("kind", [Neurons, PCA, ICA])
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
    for kind in (Neurons, PCA, ICA, Random):
        dictionary = kind.fit(x, k=2)
        assert torch.allclose(dictionary.decode(dictionary.encode(x)), x)


def test_more_active_directions_than_there_are_is_refused():
    with pytest.raises(Invalid, match="k is 13; it must be between 1 and the number of directions, 12"):
        Neurons.fit(rows(), k=13)


def test_ica_finds_independent_sources_of_several_shapes_where_pca_does_not():
    draw = torch.Generator().manual_seed(0)
    uniform, other = (torch.rand(20_000, 4, generator=draw) for _ in range(2))
    laplace = torch.rand(20_000, 4, generator=draw).log() * (1 - 2 * (other > 0.5))
    mixing = torch.randn(8, 8, generator=draw)
    x = torch.cat([uniform, laplace], 1) @ mixing + 3
    assert float(matched(ICA.fit(x, 2).directions, mixing)[1].min()) > 0.995
    assert float(matched(PCA.fit(x, 2).directions, mixing)[1].mean()) < 0.9


def test_ica_components_are_uncorrelated_and_strongest_first():
    x = rows()
    dictionary = ICA.fit(x, k=12)
    z = dictionary.encode(x).dense().double()
    assert torch.allclose(torch.corrcoef(z.T), torch.eye(12).double(), atol=1e-3)
    assert torch.all(z.std(0)[:-1] >= z.std(0)[1:] - 1e-6)


def test_ica_takes_a_sample_with_flat_dimensions():
    x = torch.cat([rows(d_in=6), torch.ones(2000, 2)], 1)
    assert fvu(ICA.fit(x, k=8), x) < 1e-9


ORTHOGONAL = World(Planted(d_in=12, num_features=8, l0=2.0, mean=2.0, noise=0.02))


@pytest.mark.parametrize("kind", [DiffMean, Probe])
def test_labelled_concepts_are_found_and_their_codes_say_whether_and_how_much(kind):
    made = ORTHOGONAL.batch(2000)
    dictionary = kind.fit(made.x, made.firing)
    found = recovery(dictionary, ORTHOGONAL, 4000)
    assert min(found.mcc, found.f1) > 0.99
    z, truth = dictionary.encode(made.x).dense(), made.codes.dense()
    assert float((z - truth)[truth > 0].abs().mean()) < 0.1
    assert found.fvu < 0.02
    assert torch.allclose(dictionary.decode(dictionary.encode(made.x)).mean(0), made.x.mean(0), atol=1e-4)


@pytest.mark.parametrize("kind", [DiffMean, Probe])
def test_taking_a_concept_away_leaves_a_row_like_those_without(kind):
    made = ORTHOGONAL.batch(2000)
    dictionary = kind.fit(made.x, made.firing[:, :1])
    z, on = dictionary.encode(made.x).dense(), made.firing[:, 0]
    gap = (made.x - z * dictionary.directions)[on].mean(0) - made.x[~on].mean(0)
    assert abs(float(gap @ dictionary.directions[0])) < 0.02


def test_the_plane_of_diff_mean_lies_halfway_between_the_means():
    x = torch.tensor([[0.0, 0.0], [0.0, 2.0], [4.0, 0.0], [4.0, 2.0]])
    dictionary = DiffMean.fit(x, torch.tensor([[False], [False], [True], [True]]))
    assert torch.allclose(dictionary.directions, torch.tensor([[1.0, 0.0]]))
    assert dictionary.encode(torch.tensor([[4.0, 9.0], [2.1, 5.0], [1.9, 5.0]])).dense()[:, 0].tolist() == pytest.approx([4.0, 2.1, 0.0])


def test_the_probe_is_where_the_gradient_of_the_logistic_loss_is_zero():
    made = World(Planted(d_in=6, num_features=20, l0=3.0, noise=0.3)).batch(1000)
    x, present = made.x.double() - made.x.double().mean(0), made.firing[:, :3].double()
    normals, offsets = Probe.planes(x, present, *(torch.zeros(3, 6).double() for _ in range(2)))
    scale = x.square().mean().sqrt()
    missing = torch.sigmoid(x @ normals.T + offsets) - present
    assert float(missing.mean(0).abs().max()) < 2e-7
    assert float((missing.T @ x / scale + normals * scale).abs().max()) / 1000 < 2e-7


def test_labels_that_teach_nothing_are_refused():
    x = rows(num=4)
    with pytest.raises(Invalid, match=r"float32 of shape \[4\]; expected booleans, a row for each of the 4"):
        DiffMean.fit(x, torch.ones(4))
    labels = torch.tensor([[True, False, True]] * 2 + [[True, False, False]] * 2)
    with pytest.raises(Invalid, match="cannot be told from the rest: 0, 1"):
        Probe.fit(x, labels)
