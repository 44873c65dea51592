"""Geometry of features: which are close by direction or by when they fire, and which tokens each promotes.

Everything is done for some features at a time: no array of features by features, or of features by vocabulary, is ever held.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import csc_array
from torch import Tensor

from saelab.dictionary import Dictionary
from saelab.progress import track

Unembed = Callable[[Float[Tensor, "row d_in"]], Float[Tensor, "row vocab"]]
"""Final norm and language-model head: the logits that a direction leads to (logit lens)."""
NOBODY = -1
"""In place of a neighbour where a feature has fewer than the others."""


@dataclass(frozen=True)
class Neighbours:
    """For each feature, the features that are closest to it, closest first."""

    index: Int[np.ndarray, "d_sae k"]
    """The other features, `NOBODY` where there are no more."""
    similarity: Float[np.ndarray, "d_sae k"]
    """How close they are, 1 at most."""


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
    skew: Float[np.ndarray, " d_sae"]
    """Skewness of the logits over the vocabulary: above 0 where it raises few tokens, below where it lowers few."""
    kurtosis_null: float
    """99 % quantile of the kurtosis of random directions: above it, the peak is not chance."""


def neighbours(directions: Float[Tensor, "d_sae d_in"], k: int = 10, rows: int = 1024) -> Neighbours:
    """The `k` features with the largest cosine to each feature (fewer if there are fewer), `rows` features at a time.

    For decoder rows as for encoder rows.
    """
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
    return Neighbours(index=np.concatenate(index), similarity=np.concatenate(cosine))


def encoder_rows(dictionary: Dictionary) -> Float[Tensor, "d_sae d_in"] | None:
    """The directions that each feature reads; none for a dictionary that finds its codes by search."""
    found = getattr(dictionary, "W_enc", None)
    return found.T if isinstance(found, Tensor) else None


def firing_neighbours(
    feature: Int[np.ndarray, " active"], item: Int[np.ndarray, " active"], d_sae: int, k: int = 10, rows: int = 512, least: int = 3
) -> Neighbours:
    """The `k` features that fire most often together with each feature, `rows` features at a time.

    The measure is Jaccard's (1912): J(f, g) = n(f, g) / (n(f) + n(g) - n(f, g)), where n(f) counts the items in which f fires and n(f, g)
    those in which both do. It is 1 for features that always fire together, and small for a rare and a frequent one. Pairs that fire
    together in fewer than `least` items are left out, as one chance meeting of two rare features would look like a perfect match.

    Arguments:
    - `feature`, `item`: which feature fires in which item (a token, a segment); every pair once.
    - `d_sae`: number of features.
    """
    items = int(item.max()) + 1 if len(item) else 1
    fires = csc_array((np.ones(len(feature), np.int32), (item, feature)), shape=(items, d_sae))
    count = np.diff(fires.indptr)
    index = np.full((d_sae, k), NOBODY, np.int32)
    similarity = np.zeros((d_sae, k), np.float32)
    transposed = fires.T.tocsr()
    for start in range(0, d_sae, rows):
        both = (transposed[start : start + rows] @ fires).tocsr()
        row = start + np.repeat(np.arange(both.shape[0]), np.diff(both.indptr))
        good = (both.data >= least) & (both.indices != row)
        row, other, met = row[good], both.indices[good], both.data[good]
        jaccard = (met / (count[row] + count[other] - met)).astype(np.float32)
        order = np.lexsort((other, -jaccard, row))
        row, other, jaccard = row[order], other[order], jaccard[order]
        rank = np.arange(len(row)) - np.searchsorted(row, row)
        index[row[rank < k], rank[rank < k]] = other[rank < k]
        similarity[row[rank < k], rank[rank < k]] = jaccard[rank < k]
    return Neighbours(index=index, similarity=similarity)


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
    null = torch.cat([_moments(_centred(chunk, unembed))[0] for chunk in random.split(rows)])
    top, top_values, bottom, bottom_values, kurtosis, skew = (np.concatenate([part[i] for part in parts]) for i in range(6))
    return LogitLens(
        top=top,
        top_values=top_values,
        bottom=bottom,
        bottom_values=bottom_values,
        kurtosis=kurtosis,
        skew=skew,
        kurtosis_null=float(null.double().quantile(0.99)),
    )


def _centred(directions: Float[Tensor, "row d_in"], unembed: Unembed) -> Float[Tensor, "row vocab"]:
    with torch.no_grad():
        logits = unembed(directions).float()
    return logits - logits.mean(-1, keepdim=True)


def _moments(logits: Float[Tensor, "row vocab"]) -> tuple[Float[Tensor, " row"], Float[Tensor, " row"]]:
    """Excess kurtosis and skewness of centred logits."""
    square = logits.square()
    variance = square.mean(-1).clamp_min(1e-15)
    return square.square().mean(-1) / variance.square() - 3, (square * logits).mean(-1) / variance**1.5


def _read(directions: Float[Tensor, "row d_in"], unembed: Unembed, k: int) -> tuple[np.ndarray, ...]:
    logits = _centred(directions, unembed)
    k = min(k, logits.shape[-1])
    top, bottom = logits.topk(k), logits.topk(k, largest=False)
    found = (top.indices.int(), top.values, bottom.indices.int(), bottom.values, *_moments(logits))
    return tuple(part.cpu().numpy() for part in found)
