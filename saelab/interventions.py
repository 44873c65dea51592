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
from saelab.passes import Edit, Edits
from saelab.records import Intervention

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
    change = _change(dictionary, interventions, max_acts)

    def edit(x: Float[Tensor, "window pos d"], mask: Bool[Tensor, "window pos"]) -> Float[Tensor, "window pos d"]:
        return _add(x, change(x), mask & dictionary.ordinary(x))

    return edit


def feature_edits(dictionary: Dictionary, interventions: Sequence[Intervention], max_acts: Mapping[int, float]) -> Edits:
    """The edits that some interventions make, by hook, in the order of the forward pass.

    A transcoder's features are read at its hook, where nothing is changed, and written at its target hook. A crosscoder adds each hook's
    part of a direction there. Its features are known only at the last of its hooks, so that what reads one changes the activation there
    alone, by the last part of its direction; what the feature has done on the way to that hook stays done.

    Arguments and errors are those of `feature_edit`; also raises `Invalid` for a crosscoder that shall add and read at once: it would read
    what it has changed.
    """
    origin = dictionary.provenance
    assert origin is not None, "a dictionary of a run knows its hook"
    if origin.target_hook is not None:
        return _edits_across(dictionary, origin.hook, origin.target_hook, _change(dictionary, interventions, max_acts))
    if len(origin.row_hooks) == 1:
        return {origin.hook: feature_edit(dictionary, interventions, max_acts)}
    change, reading = _change(dictionary, interventions, max_acts), sorted({item.op for item in interventions} - {"add"})
    if not reading:
        return _edits_at_each(dictionary, origin.limits(), change)
    if len(reading) < len({item.op for item in interventions}):
        raise Invalid(
            f"A dictionary of several hooks ({', '.join(origin.row_hooks)}) adds at all of them, and {' and '.join(reading)} would "
            "then read changed activations at the last. Ask for the two one after the other."
        )
    return _edits_at_last(dictionary, origin.row_hooks, change)


def _edits_across(dictionary: Dictionary, hook: str, target: str, change: Callable[[Tensor], Tensor]) -> Edits:
    read: list[Tensor] = []

    def watch(x: Float[Tensor, "window pos d"], _mask: Bool[Tensor, "window pos"]) -> Float[Tensor, "window pos d"]:
        read[:] = [x]
        return x

    def edit(x: Float[Tensor, "window pos d"], mask: Bool[Tensor, "window pos"]) -> Float[Tensor, "window pos d"]:
        if not read:
            raise Invalid(f"The dictionary reads at {hook}, which comes after {target}, where it writes: it cannot steer.")
        source = read.pop()
        return _add(x, change(source), mask & dictionary.ordinary(source))

    return {hook: watch, target: edit}


def _edits_at_last(dictionary: Dictionary, hooks: Sequence[str], change: Callable[[Tensor], Tensor]) -> Edits:
    read: dict[str, Tensor] = {}
    parts = {hook: place for place, hook in enumerate(hooks)}

    def edit_of(hook: str) -> Edit:
        def edit(x: Float[Tensor, "window pos d"], mask: Bool[Tensor, "window pos"]) -> Float[Tensor, "window pos d"]:
            read[hook] = x
            if len(read) < len(hooks):
                return x
            rows = torch.cat([read.pop(name) for name in hooks], dim=-1)
            delta = change(rows).split(dictionary.widths, dim=-1)[parts[hook]]
            return _add(x, delta, mask & dictionary.ordinary(rows))

        return edit

    return {hook: edit_of(hook) for hook in hooks}


def _edits_at_each(dictionary: Dictionary, limits: Mapping[str, float | None], change: Callable[[Tensor], Tensor]) -> Edits:
    delta = change(torch.zeros(dictionary.d_in))  # only `add`: the same everywhere

    def edit_of(part: Float[Tensor, " d"], limit: float | None) -> Edit:
        def edit(x: Float[Tensor, "window pos d"], mask: Bool[Tensor, "window pos"]) -> Float[Tensor, "window pos d"]:
            fine = mask if limit is None else mask & (x.float().norm(dim=-1) <= limit)
            return _add(x, part.expand(x.shape), fine)

        return edit

    parts = delta.split(dictionary.widths, dim=-1)
    return {hook: edit_of(part, limit) for (hook, limit), part in zip(limits.items(), parts, strict=True)}


def _change(
    dictionary: Dictionary, interventions: Sequence[Intervention], max_acts: Mapping[int, float]
) -> Callable[[Float[Tensor, "*batch d_in"]], Float[Tensor, "*batch d_out"]]:
    """From what the dictionary reads, what the interventions add to what it writes."""
    strengths = [_raw_strength(dictionary, item, max_acts) for item in interventions]
    features = torch.tensor([item.feature for item in interventions], dtype=torch.long)
    directions = dictionary.directions[features].detach()
    reads = any(item.op != "add" for item in interventions)

    def change(x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        wide = x.to(directions)  # the subject may run elsewhere and in another number format
        z = _activations(dictionary, wide, features) if reads else wide.new_zeros(*x.shape[:-1], len(strengths))
        changes = [OPS[item.op](z[..., i], s) for i, (item, s) in enumerate(zip(interventions, strengths, strict=True))]
        return torch.stack(changes, dim=-1) @ directions if changes else wide.new_zeros(*x.shape[:-1], directions.shape[1])

    return change


def _add(x: Float[Tensor, "window pos d"], delta: Float[Tensor, "window pos d"], fine: Bool[Tensor, "window pos"]) -> Tensor:
    """The sum where that changes something and may; elsewhere the activation bit for bit."""
    changed = fine[..., None] & (delta != 0).any(-1, keepdim=True).to(x.device)
    return torch.where(changed, (x.to(delta) + delta).to(x), x)


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
