"""Pursuit against searches written out for one vector, and on dictionaries of every kind."""

import numpy as np
import pytest
import torch

from saelab.baselines.itda import ITDA, overlap
from saelab.dictionary import DICTIONARIES
from saelab.errors import Invalid
from saelab.pursuit import pursue, search
from saelab.testing import D_IN, L0, planted, small


def drawn(seed=0, rows=40, d_in=12, features=30):
    noise = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(features, d_in, generator=noise, dtype=torch.float64), dim=1)
    return torch.randn(rows, d_in, generator=noise, dtype=torch.float64), directions


def written(codes, directions):
    indices, values = codes
    return (values[..., None] * directions[indices]).sum(1)


def by_hand(x, directions, k, method, signed):
    """One vector, with a dictionary of coefficients."""
    codes = {}
    for _ in range(k):
        residual = x - sum((value * directions[i] for i, value in codes.items()), np.zeros_like(x))
        gain = directions @ residual
        pick = int(np.argmax(np.abs(gain) if signed else gain))
        codes.setdefault(pick, 0.0)
        support = list(codes)
        atoms = directions[support]
        if method == "matching":
            codes[pick] += gain[pick]
        elif method == "gradient":
            gradient = atoms @ residual
            step = gradient @ atoms
            for i, g in zip(support, gradient, strict=True):
                codes[i] += (residual @ step) / (step @ step) * g
        else:
            codes = dict(zip(support, np.linalg.lstsq(atoms.T, x, rcond=None)[0], strict=True))
        codes = {i: value if signed else max(value, 0.0) for i, value in codes.items()}
    dense = np.zeros(len(directions))
    for i, value in codes.items():
        dense[i] = value
    return dense


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("method", ["matching", "gradient", "orthogonal"])
def test_a_batch_is_searched_as_one_vector_after_the_other(method, signed):
    x, directions = drawn()
    indices, values = search(x, directions, 6, method, signed)
    dense = torch.zeros(len(x), len(directions), dtype=x.dtype).scatter_add(1, indices, values)
    for row in range(len(x)):
        expected = by_hand(x[row].numpy(), directions.numpy(), 6, method, signed)
        np.testing.assert_allclose(dense[row].numpy(), expected, atol=1e-4)


def test_the_methods_explain_more_and_more_in_the_order_of_their_cost():
    x, directions = drawn(rows=200)
    left = [
        float((x - written(search(x, directions, 6, method, True), directions)).square().sum())
        for method in ("matching", "gradient", "orthogonal")
    ]
    assert left[0] > left[1] > left[2]


def test_a_vector_against_a_feature_gets_a_code_below_zero():
    _, directions = drawn()
    indices, values = search(-2.0 * directions[[7]], directions, 1, "gradient", True)
    assert indices.item() == 7
    assert values.item() == pytest.approx(-2.0)
    assert search(-2.0 * directions[[7]], directions[[7]], 1, "gradient", False)[1].item() == 0.0


@pytest.mark.parametrize("name", DICTIONARIES)
def test_every_dictionary_can_be_pursued_and_an_exact_sum_is_found_again(name):
    dictionary = small(DICTIONARIES[name])
    x, _ = planted(20, seed=3)
    codes = pursue(dictionary, x.view(4, 5, D_IN), L0, "orthogonal") if dictionary.d_out == D_IN else None
    if codes is not None:
        assert codes.values.shape == (4, 5, L0)
        error = (dictionary.decode(codes) - x.view(4, 5, D_IN)).detach().square().sum()
        assert float(error) < float((x - x.mean(0)).square().sum())


def test_k_outside_the_dictionary_is_refused():
    dictionary = small(DICTIONARIES["topk"])
    with pytest.raises(Invalid, match="between 1 and the number of features"):
        pursue(dictionary, torch.zeros(1, D_IN), dictionary.d_sae + 1)


def test_itda_directions_are_activations_and_their_origins_compare_samples():
    x, _ = planted(2000, seed=1)
    fitted = ITDA.fit(x, 2 * L0, d_sae=400)
    assert L0 < fitted.d_sae < 400
    rows = torch.nn.functional.normalize(x[fitted.origin] - x.double().mean(0).float(), dim=1)
    assert torch.allclose(fitted.directions, rows, atol=1e-6)
    turned = x @ torch.linalg.qr(torch.randn(D_IN, D_IN, generator=torch.Generator().manual_seed(0))).Q
    assert overlap(fitted.origin, ITDA.fit(turned, 2 * L0, d_sae=400).origin) > 0.9
    assert overlap(fitted.origin, ITDA.fit(planted(2000, seed=2)[0], 2 * L0, d_sae=400).origin) < 0.7


def test_itda_explains_repeated_directions_with_one_code_each():
    _, directions = planted(1, seed=0)
    noise = torch.Generator().manual_seed(0)
    rows = 5 * directions[torch.randint(len(directions), (3000,), generator=noise)] + 0.1 * torch.randn(3000, D_IN, generator=noise)
    fitted = ITDA.fit(rows, 1, d_sae=400)
    left = (rows - fitted.decode(fitted.encode(rows))).square().sum() / (rows - rows.mean(0)).square().sum()
    assert len(directions) <= fitted.d_sae < 2 * len(directions)
    assert float(left) < 0.1


def test_a_sample_that_is_all_alike_is_refused():
    with pytest.raises(Invalid, match="fewer than k"):
        ITDA.fit(planted(1, seed=0)[0].expand(50, -1) + torch.zeros(50, 1), 4)
