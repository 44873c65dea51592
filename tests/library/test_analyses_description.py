"""Description length against entropies that are known."""

import numpy as np
import pytest
from scipy import sparse

from saelab.analyses.description import Prices


def test_description_length_is_the_entropy_of_independent_features():
    draw = np.random.default_rng(0)
    shares = np.array([0.5, 0.1, 0.01])
    z = (draw.random((40_000, 3)) < shares) * draw.integers(1, 5, (40_000, 3))
    halves = [sparse.csr_array(part.astype(float)) for part in np.split(z, 2)]
    bits = Prices.counted(halves[0], 4).lengths(halves[1]).mean()
    firing = -(shares * np.log2(shares) + (1 - shares) * np.log2(1 - shares)).sum()
    assert bits == pytest.approx(firing + 2 * shares.sum(), rel=0.02)


def test_rounded_codes_are_within_half_a_bin_and_silent_ones_stay_silent():
    z = np.random.default_rng(0).random((500, 4)) * (np.arange(500) % 3 == 0)[:, None]
    codes = sparse.csr_array(z)
    rounded = Prices.counted(codes, 10).rounded(codes).toarray()
    assert np.abs(rounded - z).max() <= 0.051
    assert (rounded[z == 0] == 0).all()
