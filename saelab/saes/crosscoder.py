"""Crosscoder: reads the activations of several hooks and writes all of them, so that a feature may live at one of them or at many.

    x = the hooks' activations side by side, each divided by its unit        z = BatchTopK((x - b_dec) encoderᵀ + b_enc)
    loss = |x - z decoder - b_dec|² + AuxK, the mean over the hooks of each one's unexplained variance

Lindsey et al. 2024, "Sparse crosscoders for cross-layer features and model diffing",
https://transformer-circuits.pub/2024/crosscoders; with BatchTopK in place of a penalty: Minder et al. 2025, "Overcoming sparsity artifacts
in crosscoders to interpret chat-tuning", https://arxiv.org/abs/2504.02922.

A hook's unit makes the variance of its activations the same as that of any other hook, so that no layer dominates, whatever its size or
width. Training knows decoder rows of norm 1 in these units. Outside, activations are raw: there each row is brought to norm 1 again, and
its encoder row, bias and threshold with it, so that a code is the size of what its feature adds to the raw activations side by side. How
much of a feature is at which hook is said in the hooks' units, by `norms`.

SAELens has no crosscoder; the layout is `crosscoder`: a jumprelu file with `hook_unit` [hook] beside.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saelab.affine import input_statistics
from saelab.dictionary import DICTIONARIES, Places
from saelab.errors import Invalid
from saelab.saes.base import Selective, Task, Weights
from saelab.saes.batchtopk import BatchTopK
from saelab.values import value


@DICTIONARIES.register("crosscoder")
class Crosscoder(BatchTopK):
    """One set of features for the activations of several hooks."""

    architecture: ClassVar[str] = "crosscoder"
    layout: ClassVar[str] = "crosscoder"
    places: ClassVar[Places] = "hooks"
    recordable: ClassVar[bool] = False  # not tried on a GPU

    @value
    class Config(BatchTopK.Config):
        """Settings of a crosscoder."""

        widths: tuple[int, ...] = ()
        """Width of each hook's activations, in the order in which they lie side by side; `saelab train` fills it in."""

    def __init__(self, d_in: int, config: Config) -> None:
        super().__init__(d_in, config)
        self._widths = config.widths
        if not config.widths or min(config.widths) < 1 or sum(config.widths) != d_in:
            raise Invalid(
                f"The widths of a crosscoder's hooks are {list(config.widths)}; each must be 1 or more, and together they must be the "
                f"{d_in} values of a row."
            )
        self.unit: Tensor
        self.stretch: Tensor
        self.register_buffer("unit", torch.ones(len(config.widths)))  # size of each hook's activations
        self.register_buffer("stretch", torch.ones(d_in))  # the same for each value of a row, while weights are in these units
        self._raw = False

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of each hook's activations."""
        return self._widths

    def weights(self) -> tuple[Float[Tensor, "d_sae d_in"], Float[Tensor, " d_sae"], Float[Tensor, "d_sae d_in"]]:
        """Encoder, encoder bias and decoder for raw activations, the decoder's rows of norm 1; differentiable."""
        encoder, bias, decoder = super().weights()
        if self._raw:
            return encoder, bias, decoder
        rows = decoder * self.stretch
        norm = rows.norm(dim=1)
        return encoder / self.stretch * norm[:, None], bias * norm, rows / norm[:, None]

    def offset(self) -> Float[Tensor, " d_in"]:
        """The decoder's bias for raw activations."""
        return super().offset() * self.stretch

    def thresholds(self) -> Float[Tensor, " d_sae"]:
        """The threshold of each feature for raw activations."""
        if self._raw:
            return self.threshold
        return super().thresholds() * (super().weights()[2] * self.stretch).norm(dim=1)

    def task(self, rows: Float[Tensor, "row d_in"]) -> Task:
        """What training rows ask: to write what was read, in the hooks' units."""
        target = rows.to(self.b_dec.dtype)
        centred = target - self.offset()
        wanted = centred / self.stretch
        return Task(
            x=wanted.detach(),
            wanted=wanted,
            shift=None,
            weights=Weights(*super().weights()),
            offset=super().offset(),
            target=target,
            variance=self.ranks.spread(centred.detach()),
            unit=self.stretch,
        )

    @torch.no_grad()
    def norms(self) -> Float[Tensor, "d_sae hook"]:
        """How much of each feature is at each hook: the norm of the decoder's part there, in the hooks' units; squares sum to 1.

        Of two hooks, `norms()[:, 1] ** 2` near 0 or 1 marks a feature that only one of them has, near 1/2 a shared one: what model diffing
        and the spread over layers are read from (Lindsey et al. 2024).
        """
        parts = self.directions.split(self.widths, dim=1)
        norms = torch.stack([part.norm(dim=1) for part in parts], dim=1) / self.unit
        return norms / norms.norm(dim=1, keepdim=True)

    def ordinary(self, x: Float[Tensor, "*batch d_in"]) -> Bool[Tensor, "*batch"]:
        """Which rows are of ordinary size at every hook."""
        origin = self.provenance
        limits = () if origin is None else tuple(origin.limits().values())
        found = torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device)
        for part, limit in zip(x.split(self.widths, dim=-1), limits, strict=False):
            found &= part.float().norm(dim=-1) <= (float("inf") if limit is None else limit)
        return found

    @classmethod
    def for_widths(cls, widths: Sequence[int], config: Config) -> Self:
        """A crosscoder for some hooks. Raises `Invalid` where the config asks for other widths."""
        if config.widths not in {(), tuple(widths)}:
            raise Invalid(f"widths are {list(config.widths)}, but the hooks' activations have {list(widths)}. Leave widths out.")
        return cls(sum(widths), replace(config, widths=tuple(widths)))

    @classmethod
    def sized(cls, d_in: int, d_sae: int, l0: int) -> Self:
        """A crosscoder of two hooks of half the width."""
        return cls(d_in, cls.Config(d_sae=d_sae, k=l0, widths=(d_in // 2, d_in - d_in // 2)))

    @torch.no_grad()
    def initialise(self, sample: Float[Tensor, "row d_in"], generator: torch.Generator) -> None:
        """As every SAE, in the hooks' units, which are set first."""
        widths, mean_width = self.widths, self.d_in / len(self.widths)
        scales = [
            input_statistics(part)[1] * (width / mean_width) ** 0.5 for part, width in zip(sample.split(widths, 1), widths, strict=True)
        ]
        self.unit.copy_(torch.stack(scales))
        self.stretch.copy_(self.unit.repeat_interleave(torch.tensor(widths, device=self.unit.device)))
        self._raw = False
        Selective.initialise(self, sample / self.stretch, generator)
        self.start_threshold(sample)

    def tensors(self) -> dict[str, Tensor]:
        """The weights under SAELens' names, for raw activations, and the hooks' units."""
        return {**super().tensors(), "hook_unit": self.unit}

    @classmethod
    def shapes_in(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        """Shapes that the tensors of a file must have."""
        widths = settings.get("config", {}).get("widths", [])
        return {**super().shapes_in(settings, tensors), "hook_unit": (len(widths),)}

    @torch.no_grad()
    def assign(self, tensors: Mapping[str, Tensor]) -> Self:
        """Takes over weights for raw activations, under SAELens' names."""
        self.unit.copy_(tensors["hook_unit"])
        self.stretch.fill_(1.0)
        self._raw = True
        return super().assign(tensors)
