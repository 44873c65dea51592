"""A map of features: places on a plane, so that features with close decoder directions lie close.

The graph of decoder neighbours is drawn as LargeVis and UMAP do (Tang et al. 2016, arXiv:1602.00370; McInnes et al. 2018,
arXiv:1802.03426): neighbours attract, random pairs repel, with the probability 1 / (1 + d^2) of an edge at distance d. It begins at the
first two principal components, follows the gradient for a fixed number of rounds, and is the same at every call. Time and memory grow
with the number of features alone. Only who is close to whom means something: not distances between clusters, not axes.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saelab.features.geometry import NOBODY, Neighbours
from saelab.progress import track

_REPELLERS = 5
_STEP = 4.0


def lay_out(directions: Float[Tensor, "d_sae d_in"], near: Neighbours, rounds: int = 200, seed: int = 0) -> Float[np.ndarray, "d_sae 2"]:
    """Places of the features, centred, with root mean square 1.

    Arguments:
    - `directions`: decoder rows.
    - `near`: their neighbours.
    - `rounds`: steps along the gradient.
    - `seed`: seed of the random pairs.
    """
    places = _principal(directions)
    generator = torch.Generator().manual_seed(seed)
    one = torch.arange(len(places)).repeat_interleave(near.index.shape[1])
    other = torch.from_numpy(near.index.astype(np.int64)).flatten()
    weight = torch.from_numpy(near.similarity.astype(np.float32)).flatten().clamp_min(0)
    kept = (other != NOBODY) & (weight > 0)
    one, other, weight = one[kept], other[kept], weight[kept] / weight[kept].mean() if kept.any() else weight[kept]
    for number in track(range(rounds), stage="map", total=rounds, unit="rounds"):
        step = _STEP * (1 - number / rounds)
        apart = places[one] - places[other]
        pull = apart * (weight / (1 + apart.square().sum(1)))[:, None]
        moves = torch.zeros_like(places).index_add_(0, one, -pull).index_add_(0, other, pull)
        for _ in range(_REPELLERS):
            apart = places - places[torch.randint(len(places), (len(places),), generator=generator)]
            square = apart.square().sum(1, keepdim=True)
            moves += apart / ((0.01 + square) * (1 + square))
        places = places + step * moves.clamp(-1, 1) * 0.1
    places = places - places.mean(0)
    return (places / places.square().mean().sqrt().clamp_min(1e-12)).numpy()


def _principal(directions: Float[Tensor, "d_sae d_in"]) -> Float[Tensor, "d_sae 2"]:
    """The first two principal components of the unit directions, each with root mean square 10 and a sign that is always the same."""
    unit = torch.nn.functional.normalize(directions.detach().float().cpu(), dim=-1)
    centred = unit - unit.mean(0)
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    axes = vectors[:, -2:].flip(1)
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    places = centred @ axes
    return 10 * places / places.square().mean(0).sqrt().clamp_min(1e-12)
