"""Nested sums in one pass, against a gather-sum of masked codes for each prefix."""

from itertools import pairwise

import pytest
import torch

from saelab.kernels.nested import cuts, nested
from saelab.kernels.segments import rows_of, segments_of
from saelab.kernels.sparse import gather_dot, gather_sum

ROWS, WIDTH, D_SAE = 40, 12, 30
GROUPS = {"five": (0, 2, 5, 9, 20), "one": (0,), "a lone feature": (0, 29), "one that is never active": (0, 3, 4, 25)}


def noise(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def codes():
    """Flat codes, features rising within a row: every fourth row is empty, as is the last, and feature 3 is never active."""
    held = torch.rand(ROWS, D_SAE, generator=torch.Generator().manual_seed(0)) < 0.3
    held[::4], held[-1], held[:, 3] = False, False, False
    row, indices = held.nonzero(as_tuple=True)
    return noise(len(row), seed=1), indices, torch.searchsorted(row, torch.arange(ROWS + 1))


def leaves(values):
    """The values, weights, what is wanted and its shift, all of them with gradients."""
    return tuple(
        part.clone().requires_grad_() for part in (values, noise(D_SAE, WIDTH, seed=2), noise(ROWS, WIDTH, seed=3), noise(WIDTH, seed=4))
    )


def by_passes(indices, starts, firsts, values, weight, wanted, shift):
    """A pass a prefix, over all codes."""
    left, means = wanted - shift, []
    for low, high in pairwise((*firsts, D_SAE)):
        mine = (indices >= low) & (indices < high)
        left = left - gather_sum(values * mine, indices.clone(), weight, starts)
        means.append(left.square().mean())
    return torch.stack(means).mean(), left.detach(), left.detach().square().sum()


@pytest.mark.parametrize("firsts", GROUPS.values(), ids=GROUPS)
def test_one_pass_is_a_pass_for_each_prefix(codes, firsts):
    values, indices, starts = codes
    one, other = leaves(values), leaves(values)
    found = nested(one[0], indices, one[1], starts, firsts, *one[2:])
    wanted = by_passes(indices, starts, firsts, *other)
    assert all(torch.allclose(ours, theirs, rtol=1e-13, atol=1e-13) for ours, theirs in zip(found, wanted, strict=True))
    assert not found[1].requires_grad
    for ours, theirs in zip(torch.autograd.grad(found[0], one), torch.autograd.grad(wanted[0], other), strict=True):
        assert float(theirs.abs().max()) > 0
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("firsts", GROUPS.values(), ids=GROUPS)
def test_cuts_hold_the_features_of_their_group_in_their_row(codes, firsts):
    _, indices, starts = codes
    found = cuts(indices, starts, firsts)
    assert torch.equal(found[:: len(firsts)], starts)
    bounds = (*firsts, D_SAE)
    for place, (begin, end) in enumerate(pairwise(found.tolist())):
        low, high = bounds[place % len(firsts)], bounds[place % len(firsts) + 1]
        assert all(low <= feature < high for feature in indices[begin:end].tolist())


def test_encoder_and_decoder_share_the_order_of_entries_and_each_has_its_own_rows(codes):
    values, indices, starts = codes
    x, encoder = noise(ROWS, WIDTH, seed=5), noise(D_SAE, WIDTH, seed=6).requires_grad_()
    _, weight, wanted, shift = leaves(values)

    def gradients(one_pass):
        codes = gather_dot(x, encoder, indices.clone(), starts) if not one_pass else gather_dot(x, encoder, indices, starts)
        loss = nested(codes, indices, weight, starts, GROUPS["five"], wanted, shift)[0] if one_pass else None
        loss = by_passes(indices, starts, GROUPS["five"], codes, weight, wanted, shift)[0] if loss is None else loss
        return torch.autograd.grad(loss, (encoder, weight))

    for ours, theirs in zip(gradients(True), gradients(False), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-15)
    bounds = cuts(indices, starts, GROUPS["five"])
    assert segments_of(indices, bounds, D_SAE).order is segments_of(indices, starts, D_SAE).order
    assert torch.equal(segments_of(indices, starts, D_SAE).rows, rows_of(starts, len(indices))[segments_of(indices, starts, D_SAE).order])


def test_features_of_other_processes_are_added_up(codes):
    """Two processes with 14 and 16 features: the sums of each are the total of both."""
    values, indices, starts = codes
    row, firsts = rows_of(starts, len(indices)), GROUPS["five"]
    _, weight, wanted, shift = leaves(values)
    parts = []
    for first, last in ((0, 14), (14, D_SAE)):
        mine = (indices >= first) & (indices < last)
        bounds = torch.searchsorted(row[mine], torch.arange(ROWS + 1))
        parts.append((values[mine], indices[mine] - first, weight[first:last], bounds, tuple(low - first for low in firsts)))
    written = [gather_sum(*part[:3], cuts(part[1], *part[3:])).view(ROWS, len(firsts), WIDTH) for part in parts]
    found = nested(*parts[1], wanted, shift, total=lambda sums: sums + written[0])
    assert all(torch.allclose(*pair) for pair in zip(found, by_passes(indices, starts, firsts, values, weight, wanted, shift), strict=True))
