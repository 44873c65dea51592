"""What stands in the place of a subject's activations: what a dictionary writes, what a control writes, or a constant.

A dictionary that writes where it reads, at one hook, is put there while the subject runs. A transcoder reads elsewhere and a crosscoder at
several places, the last of which comes after the first is to be replaced; both read a pass of the subject that nothing has changed.
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saelab.dictionary import Codes, Dictionary
from saelab.lab import rows_of
from saelab.passes import Edits
from saelab.subject import Subject

Apply = Callable[[Float[Tensor, "*batch width"]], tuple[Float[Tensor, "*batch d_out"], Codes]]
"""From training rows what is written for them, and the codes behind it."""
Write = Callable[[Float[Tensor, "*batch width"]], Float[Tensor, "*batch d_out"]]
"""From training rows what is written for them."""
Splice = Callable[[Int[Tensor, "window pos"]], Edits]
"""From tokens the edits that put something in the place of the activations on them."""


def own(dictionary: Dictionary) -> Apply:
    """What a dictionary writes for what it reads."""

    def apply(rows: Float[Tensor, "*batch width"]) -> tuple[Float[Tensor, "*batch d_out"], Codes]:
        x = rows[..., : dictionary.d_in]
        codes = dictionary.encode(x)
        return dictionary.written(x, codes), codes

    return apply


def control(dictionary: Dictionary, unit: Float[Tensor, " d_out"]) -> Apply:
    """What a control writes, which reads what is to be written, in the given units."""

    def apply(rows: Float[Tensor, "*batch width"]) -> tuple[Float[Tensor, "*batch d_out"], Codes]:
        codes = dictionary.encode(rows[..., -dictionary.d_in :] / unit)
        return dictionary.decode(codes) * unit, codes

    return apply


def constant(vector: Float[Tensor, " d_out"]) -> Write:
    """The same vector in every place."""
    return lambda rows: vector.expand(*rows.shape[:-1], -1)


def splice(subject: Subject, dictionary: Dictionary, write: Write) -> Splice:
    """Puts what is written where the dictionary writes: at positions that count, but for activations that are massive where it reads."""
    like, d_in = dictionary.directions, dictionary.d_in  # the subject may run elsewhere and in another number format
    origin = dictionary.provenance
    assert origin is not None, "a dictionary of a subject's activations knows its hook"

    def in_place(x: Float[Tensor, "window pos d"], mask: Bool[Tensor, "window pos"]) -> Float[Tensor, "window pos d"]:
        return _put(dictionary.ordinary(x), write(x.to(like)), x, mask)

    def across(tokens: Int[Tensor, "window pos"]) -> Edits:
        rows = rows_of(subject, origin, tokens)
        ordinary, written = dictionary.ordinary(rows[..., :d_in]), write(rows.to(like))
        parts = written.split(dictionary.widths, dim=-1)
        return {hook: partial(_put, ordinary, part) for hook, part in zip(origin.written_hooks, parts, strict=True)}

    return across if len(origin.row_hooks) > 1 else lambda _: {origin.hook: in_place}


def _put(
    ordinary: Bool[Tensor, "window pos"],
    written: Float[Tensor, "window pos d"],
    x: Float[Tensor, "window pos d"],
    mask: Bool[Tensor, "window pos"],
) -> Float[Tensor, "window pos d"]:
    return torch.where((mask & ordinary)[..., None], written.to(x), x)
