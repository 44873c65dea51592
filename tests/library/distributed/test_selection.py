"""What the ranks choose together is what one would choose that had all values."""

import pytest
import torch
import torch.distributed as dist

from saelab.distributed.selection import chosen_of_all, chosen_of_rows


def values(seed, *shape, ties=False):
    """Not negative, the same for all ranks; few different ones where there shall be ties."""
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    return (4 * drawn).floor() if ties else drawn


def of_rows(job, seed, ties, k):
    mine = values(seed, 8, 6, ties=ties).chunk(2, dim=1)[job.rank]
    size, order = mine.sort(dim=1, descending=True, stable=True)
    size, order = size[:, :k], order[:, :k]
    order, by_number = order.sort(dim=1)
    chosen = chosen_of_rows(size.gather(1, by_number), k, dist.group.WORLD)
    return torch.zeros(8, 3, dtype=torch.bool).scatter(1, order, chosen)


def of_all(job, seed, ties, count):
    return chosen_of_all(values(seed, 100, ties=ties).split([30, 70])[job.rank], count, dist.group.WORLD)


def first_largest(row, count):
    """A mask of the largest; of equal ones the first."""
    return torch.zeros_like(row, dtype=torch.bool).index_fill_(0, row.sort(descending=True, stable=True).indices[:count], True)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_k_largest_of_a_row_whoever_has_them(crew, ties, k):
    for seed in range(3):
        found = torch.cat(crew.run(of_rows, seed, ties, k), dim=1)
        assert found.equal(torch.stack([first_largest(row, k) for row in values(seed, 8, 6, ties=ties)]))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("count", [1, 29, 77, 100])
def test_the_largest_of_all_whoever_has_them(crew, ties, count):
    for seed in range(3):
        found = torch.cat(crew.run(of_all, seed, ties, count))
        assert found.equal(first_largest(values(seed, 100, ties=ties), count))
