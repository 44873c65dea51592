"""Recovery: how much of a planted truth a dictionary has found.

The features of the dictionary and the planted ones are matched one to one so that the sum of |cosine| is largest (Hungarian algorithm, Kuhn
1955). The sum over the number of planted features is the mean correlation coefficient (MCC): a planted feature without a partner counts 0.
The firing of each matched feature is then compared with its planted feature's. Codes may be negative: a feature fires where its code is
not 0. Sums in float64.

Where planted features have parents, a dictionary can save on sparsity by letting a child's feature write the parent too and keeping the
parent's silent: absorption (Chanin et al. 2024, https://arxiv.org/abs/2409.14507).
"""

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from saelab.dictionary import Dictionary
from saelab.errors import Invalid
from saelab.estimates import mean
from saelab.planted import World
from saelab.records import Estimate
from saelab.values import value

FOUND = 0.9
"""A planted feature counts as found above this |cosine|."""
_BATCH = 2048


@value
class Recovery:
    """What a dictionary has found of a planted world; means are over the planted features."""

    mcc: float
    """Mean |cosine| between planted features and their partners."""
    found: float
    """Share of the planted features whose partner has |cosine| above 0.9."""
    precision: float
    """Share of a partner's firings on which its planted feature fires."""
    recall: float
    """Share of a planted feature's firings on which its partner fires."""
    f1: float
    """Harmonic mean of the two for each feature."""
    fvu: float
    """Fraction of variance unexplained."""
    l0: float
    """Mean number of active features a row."""
    dead: float
    """Share of the dictionary's features that never fire."""
    absorbed: float | None = None
    """Where a parent fires with a child: share of the cases in which the parent's partner is silent. None without hierarchy."""
    missed: float | None = None
    """The same where the parent fires alone: what it misses anyway."""


def matched(
    directions: Float[Tensor, "d_sae d_in"], planted: Float[Tensor, "feature d_in"]
) -> tuple[Int[Tensor, " feature"], Float[Tensor, " feature"]]:
    """The partner of each planted feature, and their |cosine|; -1 and 0 where the dictionary has too few features."""
    rows, truth = (functional.normalize(part.detach().double().cpu(), dim=1) for part in (directions, planted))
    cosines = (truth @ rows.T).abs()
    feature, partner = (torch.from_numpy(part) for part in linear_sum_assignment(cosines.numpy(), maximize=True))
    partners = torch.full((len(truth),), -1).index_put((feature,), partner)
    return partners, torch.zeros(len(truth)).double().index_put((feature,), cosines[feature, partner])


@torch.no_grad()
def recovery(dictionary: Dictionary, world: World, num_rows: int = 20_000, seed: int = 1_000_000) -> Recovery:
    """How much of the world the dictionary has found, judged on rows of another seed than training's.

    Raises `Invalid` for less than two rows, or a dictionary of another width than the world.
    """
    if num_rows < 2:
        raise Invalid(f"num_rows is {num_rows}; recovery is measured on two rows or more.")
    if dictionary.d_in != world.config.d_in:
        raise Invalid(f"The dictionary reads rows of {dictionary.d_in} values; the planted ones have {world.config.d_in}.")
    rows, device = world.batch(num_rows, seed=seed), dictionary.directions.device
    partners, cosines = matched(dictionary.directions, world.directions)
    fires, written = torch.zeros(num_rows, dictionary.d_sae, dtype=torch.bool), torch.zeros_like(rows.x)
    for begin in range(0, num_rows, _BATCH):
        codes = dictionary.encode(rows.x[begin : begin + _BATCH].to(device))
        fires[begin : begin + _BATCH] = (codes.dense() != 0).cpu()
        written[begin : begin + _BATCH] = dictionary.decode(codes).cpu()
    planted, found = rows.firing, fires[:, partners] & (partners >= 0)
    hits, guesses, true = (part.sum(0).double() for part in (planted & found, found, planted))
    x = rows.x.double()
    return Recovery(
        mcc=float(cosines.mean()),
        found=float((cosines > FOUND).double().mean()),
        precision=_mean_ratio(hits, guesses),
        recall=_mean_ratio(hits, true),
        f1=_mean_ratio(2 * hits, guesses + true),
        fvu=float((x - written).square().sum() / (x - x.mean(0)).square().sum()),
        l0=float(fires.sum() / num_rows),
        dead=float((~fires.any(0)).double().mean()),
        **_silent_parents(planted, found, world.parents),
    )


def _mean_ratio(top: Float[Tensor, " feature"], bottom: Float[Tensor, " feature"]) -> float:
    """The mean ratio; 0 where there is nothing to share out."""
    return float((top / bottom.clamp(min=1)).mean())


def _silent_parents(
    planted: Bool[Tensor, "row feature"], found: Bool[Tensor, "row feature"], parents: Int[Tensor, " feature"]
) -> dict[str, float]:
    """How often a parent's partner is silent where the parent fires, with a child and alone; nothing where there are no parents."""
    children = (parents >= 0).nonzero()[:, 0]
    if not len(children):
        return {}
    with_child = torch.zeros_like(planted, dtype=torch.int32).index_add_(1, parents[children], planted[:, children].int()) > 0
    parent = torch.isin(torch.arange(len(parents)), parents)
    cases = {"absorbed": planted & parent & with_child, "missed": planted & parent & ~with_child}
    return {name: float((case & ~found).sum() / case.sum().clamp(min=1)) for name, case in cases.items()}


def over_seeds(found: Sequence[Recovery]) -> dict[str, Estimate]:
    """The mean of each measure over seeds, with its 95 % interval; a measure that does not apply is left out."""
    measures = {field.name: [getattr(one, field.name) for one in found] for field in fields(Recovery)}
    return {name: mean(np.array(values)) for name, values in measures.items() if None not in values}
