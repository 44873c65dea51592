"""Interventions: changes of features during a forward pass, written as differences.

Each op gives the change `c` of one feature's activation; the activation becomes `x + sum(c_i * d_i)` over the features' directions `d`.
What the dictionary cannot explain stays as it is, a change of nothing leaves `x` bit for bit, and the features are all read from the
unedited activation, so their order does not matter (Templeton et al. 2024, "Scaling Monosemanticity", for clamping with the error kept).
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saelab.dictionary import Dictionary
from saelab.errors import Invalid, NotFound
from saelab.records import Intervention
from saelab.subject import Edit

OPS: Mapping[str, Callable[[Tensor, float], Tensor]] = {
    "add": lambda z, s: torch.full_like(z, s),
    "clamp": lambda z, s: s - z,
    "scale": lambda z, s: (s - 1) * z,
    "ablate": lambda z, s: -z,
}
"""Each op: from the feature's activation `z` and the strength `s`, the change of `z`."""


def feature_edit(dictionary: Dictionary, interventions: Sequence[Intervention], max_acts: Mapping[int, float]) -> Edit:
    """The edit that some interventions make at the dictionary's hook.

    Arguments:
    - `max_acts`: largest activation of each feature whose strength is in units of it.

    Raises `NotFound` for a feature out of range, and `Invalid` where the unit is `max_act` but the feature never fired.
    """
    strengths = [_raw_strength(dictionary, item, max_acts) for item in interventions]
    features = torch.tensor([item.feature for item in interventions], dtype=torch.long)
    directions = dictionary.directions[features].detach()
    reads = any(item.op != "add" for item in interventions)

    def edit(x: Float[Tensor, "window pos d"], mask: Bool[Tensor, "window pos"]) -> Float[Tensor, "window pos d"]:
        wide = x.to(directions)  # the subject may run elsewhere and in another number format
        z = _activations(dictionary, wide, features) if reads else wide.new_zeros(*x.shape[:-1], len(strengths))
        changes = [OPS[item.op](z[..., i], s) for i, (item, s) in enumerate(zip(interventions, strengths, strict=True))]
        delta = torch.stack(changes, dim=-1) @ directions if changes else torch.zeros_like(wide)
        changed = (mask & dictionary.ordinary(x))[..., None] & (delta != 0).any(-1, keepdim=True).to(x.device)
        return torch.where(changed, (wide + delta).to(x), x)

    return edit


def _raw_strength(dictionary: Dictionary, item: Intervention, max_acts: Mapping[int, float]) -> float:
    if not 0 <= item.feature < dictionary.d_sae:
        raise NotFound(f"Feature {item.feature} does not exist: the dictionary has features 0 to {dictionary.d_sae - 1}.")
    if item.op in {"scale", "ablate"} or item.unit == "raw":
        return item.strength
    if not max_acts.get(item.feature):
        raise Invalid(
            f"Feature {item.feature} never fired on the corpus, so it has no largest activation. Give the strength with unit `raw`."
        )
    return item.strength * max_acts[item.feature]


def _activations(dictionary: Dictionary, x: Float[Tensor, "*batch d"], features: Tensor) -> Float[Tensor, "*batch feature"]:
    codes = dictionary.encode(x)
    return ((codes.indices[..., None] == features) * codes.values[..., None]).sum(-2)
