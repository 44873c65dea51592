import numpy as np
import planted
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saelab.features.geometry import NOBODY, encoder_rows, firing_neighbours, logit_lens, neighbours
from saelab.features.layout import lay_out
from saelab.saes.topk import TopK


def test_neighbours_in_pieces_equal_the_whole_cosine_matrix():
    directions = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    cosine = torch.nn.functional.cosine_similarity(directions[:, None], directions[None], dim=-1).fill_diagonal_(-2)
    best = cosine.topk(5)
    for rows in (7, 50):
        found = neighbours(directions, k=5, rows=rows)
        np.testing.assert_array_equal(found.index, best.indices.numpy())
        np.testing.assert_allclose(found.similarity, best.values.numpy(), atol=1e-6)


def test_a_dictionary_smaller_than_the_neighbours_asked_for_gives_all_others():
    assert neighbours(torch.eye(3), k=10).index.shape == (3, 2)


def test_a_direction_that_speaks_for_one_token_stands_out_of_the_kurtosis_of_random_ones():
    generator = torch.Generator().manual_seed(0)
    head = torch.randn(500, 16, generator=generator)
    head[7] *= 30
    planted = torch.stack([head[7] / head[7].norm(), torch.randn(16, generator=generator)])
    lens = logit_lens(planted, lambda x: x @ head.T, k=3, rows=1)
    assert lens.top[0, 0] == 7
    assert lens.kurtosis[0] > lens.kurtosis_null
    logits = planted[1] @ head.T
    assert lens.bottom[1, 0] == int(logits.argmin())
    np.testing.assert_allclose(lens.top_values[1, 0], float(logits.max() - logits.mean()), rtol=1e-5)
    assert lens.skew[0] > 5
    np.testing.assert_allclose(lens.skew[1], float(((logits - logits.mean()) / logits.std(correction=0)).pow(3).mean()), atol=1e-4)


@given(st.integers(0, 2**31), st.sampled_from([1, 3, 64]))
def test_features_that_fire_together_are_found_as_in_the_full_matrix(seed, rows):
    fires = np.random.default_rng(seed).random((30, 12)) < 0.3
    item, feature = np.nonzero(fires)
    found = firing_neighbours(feature, item, 12, k=4, rows=rows, least=2)
    both = fires.T.astype(int) @ fires
    jaccard = both / np.maximum(1, both.diagonal()[:, None] + both.diagonal() - both)
    jaccard[(both < 2) | np.eye(12, dtype=bool)] = 0
    best = -np.sort(-jaccard, axis=1)[:, :4]
    np.testing.assert_allclose(found.similarity, best, atol=1e-6)
    assert ((found.index == NOBODY) == (best == 0)).all()
    for row, others in enumerate(found.index):
        np.testing.assert_allclose([jaccard[row, other] for other in others if other != NOBODY], best[row][best[row] > 0], atol=1e-6)


def test_nobody_fires_with_a_feature_that_never_fires():
    nothing = np.zeros(0, np.int64)
    assert (firing_neighbours(nothing, nothing, 5).index == NOBODY).all()


def test_a_chance_meeting_of_two_rare_features_makes_no_neighbours():
    feature, item = np.array([0, 1, 2, 2, 2, 3, 3, 3]), np.array([9, 9, 1, 2, 3, 1, 2, 3])
    found = firing_neighbours(feature, item, 4, k=1)
    assert found.index[:, 0].tolist() == [NOBODY, NOBODY, 3, 2]


def test_encoder_rows_are_known_where_there_is_an_encoder():
    sae = TopK(4, TopK.Config(d_sae=6, k=2))
    torch.testing.assert_close(encoder_rows(sae), sae.W_enc.T)
    assert encoder_rows(planted.PlantedDictionary()) is None


def test_the_map_puts_planted_clusters_apart_and_is_the_same_again():
    generator = torch.Generator().manual_seed(0)
    centres = torch.nn.functional.normalize(torch.randn(5, 32, generator=generator), dim=1)
    cluster = torch.arange(300) % 5
    directions = centres[cluster] + 0.05 * torch.randn(300, 32, generator=generator)
    places = lay_out(directions, neighbours(directions, k=8))
    middle = np.stack([places[cluster == number].mean(0) for number in range(5)])
    nearest = np.linalg.norm(places[:, None] - middle, axis=-1).argmin(1)
    assert (nearest == cluster.numpy()).mean() > 0.98
    assert np.linalg.norm(places, axis=1).mean() == pytest.approx(1.3, abs=0.3)
    np.testing.assert_array_equal(places, lay_out(directions, neighbours(directions, k=8)))
