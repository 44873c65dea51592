import numpy as np
import torch

from saelab.features.geometry import logit_lens, neighbours


def test_neighbours_in_pieces_equal_the_whole_cosine_matrix():
    directions = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    cosine = torch.nn.functional.cosine_similarity(directions[:, None], directions[None], dim=-1).fill_diagonal_(-2)
    best = cosine.topk(5)
    for rows in (7, 50):
        found = neighbours(directions, k=5, rows=rows)
        np.testing.assert_array_equal(found.index, best.indices.numpy())
        np.testing.assert_allclose(found.cosine, best.values.numpy(), atol=1e-6)


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
