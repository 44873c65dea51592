"""Groups of neighbouring layers whose activations point alike, for one dictionary a group.

    distance(p, q) = the mean over tokens of arccos(cos(x_p, x_q)) / π

Layers begin as groups of one; the two neighbouring groups whose farthest layers are closest are joined until the asked number is left.

Ghilardi et al. 2024, "Group-SAE: Efficient training of sparse autoencoders for large language models via layer groups",
https://arxiv.org/abs/2410.21508; the distance is that of Gromov et al. 2024, "The unreasonable ineffectiveness of the deeper layers",
https://arxiv.org/abs/2403.17887. Only neighbours are joined, so that groups are contiguous.
"""

import math
from collections.abc import Iterable
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from saelab.errors import Invalid


@torch.no_grad()
def angular_distances(batches: Iterable[Float[Tensor, "row layer d"]]) -> Float[Tensor, "layer layer"]:
    """Mean angle between the activations of each two layers at the same token, in half turns: 0 alike, 1/2 orthogonal, 1 opposite.

    Arguments:
    - `batches`: activations of some tokens at all layers, such as `chunk.x.unflatten(1, (layers, -1))` of the chunks of a `JoinedStore`;
      the mean is over all rows.

    Raises `Invalid` without any row.
    """
    total, count = torch.zeros(()), 0
    for x in batches:
        unit = functional.normalize(x.double(), dim=-1)
        cosines = torch.einsum("rpd,rqd->rpq", unit, unit)
        total = total + cosines.clamp(-1, 1).arccos().sum(0) / math.pi
        count += len(x)
    if not count:
        raise Invalid("There are no activations to compare layers by. Give one row at least.")
    distances = total / count
    return distances.fill_diagonal_(0.0)


def layer_groups(distances: Float[Tensor, "layer layer"], num_groups: int) -> tuple[tuple[int, ...], ...]:
    """The layers in so many contiguous groups, by joining neighbours with complete linkage. Raises `Invalid` for a number out of range."""
    if not 1 <= num_groups <= len(distances):
        raise Invalid(f"num_groups is {num_groups}; it must be from 1 to the number of layers, {len(distances)}.")
    groups = [[layer] for layer in range(len(distances))]
    while len(groups) > num_groups:
        spans = [float(distances[left][:, right].max()) for left, right in pairwise(groups)]
        nearest = spans.index(min(spans))
        groups[nearest : nearest + 2] = [groups[nearest] + groups[nearest + 1]]
    return tuple(tuple(group) for group in groups)
