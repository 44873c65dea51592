"""Geometry of features: which decoder directions are close, and which tokens each promotes.

Everything is done for some directions at a time: no array of features by features, or of features by vocabulary, is ever held.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.progress import track

Unembed = Callable[[Float[Tensor, "row d_in"]], Float[Tensor, "row vocab"]]
"""Final norm and language-model head: the logits that a direction leads to (logit lens)."""


@dataclass(frozen=True)
class Neighbours:
    """For each feature, the features with the closest decoder directions, closest first."""

    index: Int[np.ndarray, "d_sae k"]
    """The other features."""
    cosine: Float[np.ndarray, "d_sae k"]
    """Cosines of the directions."""


@dataclass(frozen=True)
class LogitLens:
    """For each feature, the tokens whose logits its direction moves most."""

    top: Int[np.ndarray, "d_sae k"]
    """Tokens raised most, strongest first."""
    top_values: Float[np.ndarray, "d_sae k"]
    """Their logits, relative to the mean over the vocabulary."""
    bottom: Int[np.ndarray, "d_sae k"]
    """Tokens lowered most, strongest first."""
    bottom_values: Float[np.ndarray, "d_sae k"]
    """Their logits, relative to the mean over the vocabulary."""
    kurtosis: Float[np.ndarray, " d_sae"]
    """Excess kurtosis of the logits over the vocabulary: large where the direction speaks for few tokens."""
    kurtosis_null: float
    """99 % quantile of the kurtosis of random directions: above it, the peak is not chance."""


def neighbours(directions: Float[Tensor, "d_sae d_in"], k: int = 10, rows: int = 1024) -> Neighbours:
    """The `k` features with the largest decoder cosine to each feature (fewer if there are fewer), `rows` features at a time."""
    unit = torch.nn.functional.normalize(directions.detach().float(), dim=-1)
    k = min(k, len(unit) - 1)
    index: list[np.ndarray] = []
    cosine: list[np.ndarray] = []
    for start in range(0, len(unit), rows):
        products = unit[start : start + rows] @ unit.T
        own = torch.arange(len(products))
        products[own, start + own] = -torch.inf
        best = products.topk(k, dim=-1)
        index.append(best.indices.cpu().numpy().astype(np.int32))
        cosine.append(best.values.cpu().numpy())
    return Neighbours(index=np.concatenate(index), cosine=np.concatenate(cosine))


def logit_lens(
    directions: Float[Tensor, "d_sae d_in"], unembed: Unembed, k: int = 10, rows: int = 256, num_random: int = 256, seed: int = 0
) -> LogitLens:
    """What each direction says when it is read out by the language-model head, `rows` directions at a time.

    Arguments:
    - `directions`: decoder rows.
    - `unembed`: the subject's final norm and head.
    - `k`: tokens kept at either end.
    - `rows`: directions at a time.
    - `num_random`: random directions that the null of the kurtosis is made from.
    - `seed`: seed of the random directions.
    """
    plain = directions.detach()
    parts = [
        _read(chunk, unembed, k) for chunk in track(plain.split(rows), stage="logit lens", total=len(plain), unit="features", size=rows)
    ]
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(num_random, plain.shape[-1], generator=generator).to(plain)
    random = random / random.norm(dim=-1, keepdim=True) * plain.norm(dim=-1).mean()
    null = torch.cat([_kurtosis(_centred(chunk, unembed)) for chunk in random.split(rows)])
    top, top_values, bottom, bottom_values, kurtosis = (np.concatenate([part[i] for part in parts]) for i in range(5))
    return LogitLens(
        top=top,
        top_values=top_values,
        bottom=bottom,
        bottom_values=bottom_values,
        kurtosis=kurtosis,
        kurtosis_null=float(null.double().quantile(0.99)),
    )


def _centred(directions: Float[Tensor, "row d_in"], unembed: Unembed) -> Float[Tensor, "row vocab"]:
    with torch.no_grad():
        logits = unembed(directions).float()
    return logits - logits.mean(-1, keepdim=True)


def _kurtosis(logits: Float[Tensor, "row vocab"]) -> Float[Tensor, " row"]:
    square = logits.square()
    return square.square().mean(-1) / square.mean(-1).square().clamp_min(1e-30) - 3


def _read(directions: Float[Tensor, "row d_in"], unembed: Unembed, k: int) -> tuple[np.ndarray, ...]:
    logits = _centred(directions, unembed)
    k = min(k, logits.shape[-1])
    top, bottom = logits.topk(k), logits.topk(k, largest=False)
    found = (top.indices.int(), top.values, bottom.indices.int(), bottom.values, _kurtosis(logits))
    return tuple(part.cpu().numpy() for part in found)
