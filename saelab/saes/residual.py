"""Residual: a second SAE trained on what a frozen dictionary leaves unexplained, the two of them one dictionary.

    x̂ = x̂₁ + SAE₂(x - x̂₁)        loss = that of BatchTopK on the error x - x̂₁, in units of the error

Koriagin et al. 2025, "Teach old SAEs new domain tricks with boosting", https://arxiv.org/abs/2507.12990: trained on texts of a new domain,
the second SAE learns what the first lacks there, and the first stays as it was. As there, the second is a BatchTopK SAE without decoder
bias: where none of its features is active, the frozen dictionary speaks alone. Features are the frozen dictionary's, then the new ones.

A file holds both parts, the frozen one's tensors as `base.*` and its settings as `base`, and needs nothing else. SAELens has no such
thing; the layout is `residual`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saelab.dictionary import (
    DICTIONARIES,
    WEIGHTS_FILE,
    Codes,
    Dictionary,
    Losses,
    Trainable,
    checked_settings,
    dictionary_of,
    kind_of,
    load_dictionary,
    settings_of,
)
from saelab.errors import Corrupt, Invalid
from saelab.provenance import Provenance
from saelab.saes.batchtopk import BatchTopK
from saelab.values import from_dict, value

_PART = 4096
"""Rows of the sample that the frozen dictionary reads at a time."""
_BASE = "base."


@DICTIONARIES.register("residual")
class Residual(Trainable):
    """A frozen dictionary and a BatchTopK SAE of its error. Without a frozen one the error is the activation: plain BatchTopK."""

    architecture: ClassVar[str] = "residual"
    layout: ClassVar[str] = "residual"
    betas: ClassVar[tuple[float, float]] = BatchTopK.betas

    @value
    class Config(BatchTopK.Config):
        """Settings of the new part, and where the frozen one lies."""

        base: str = ""
        """Folder of the frozen dictionary; none for no frozen part."""

    def __init__(self, d_in: int, config: Config, base: Dictionary | None = None) -> None:
        super().__init__()
        self.config: Residual.Config = config
        if base is None and config.base:
            base = load_dictionary(Path(config.base))
        if base is not None and not _writes_what_it_reads(base, d_in):
            raise Invalid(
                f"The frozen dictionary {config.base} is a {base.architecture} that reads {base.d_in} values and writes {base.d_out}; the "
                f"activations have {d_in}. Give one that was trained on this hook, and that writes what it reads."
            )
        self.base = None if base is None else base.eval().requires_grad_(False)
        """The frozen part."""
        self.new = BatchTopK(d_in, config)
        """The part that is trained."""
        self.new.b_dec.requires_grad_(base is None)
        self.num_frozen = 0 if base is None else base.d_sae
        """Features of the frozen part, which come first."""
        self.d_in, self.d_sae = d_in, self.num_frozen + self.new.d_sae

    def locate(self, origin: Provenance) -> None:
        """Tells it where its activations come from. Raises `Invalid` for another hook than the frozen part's."""
        known = None if self.base is None else self.base.provenance
        if known is not None and not {*origin.hooks} <= {*known.hooks}:
            raise Invalid(
                f"The frozen dictionary {self.config.base} was trained on {', '.join(known.hooks)}, and not on {', '.join(origin.hooks)}. "
                "Train on its hook, or give a dictionary of this one."
            )
        super().locate(origin)

    @torch.no_grad()
    def frozen(self, x: Float[Tensor, "*batch d_in"]) -> tuple[Codes, Float[Tensor, "*batch d_in"]]:
        """Codes of the frozen part, and the error that it leaves; in full precision, in training too."""
        x = x.to(self.new.b_dec.dtype)
        if self.base is None:
            nothing = x[..., :0]
            return Codes(indices=nothing.long(), values=nothing, d_sae=0), x
        with torch.autocast(x.device.type, enabled=False):
            codes = self.base.encode(x)
            return codes, x - self.base.decode(codes)

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Codes:
        """The frozen part's codes, and behind them the new part's codes of its error."""
        codes, error = self.frozen(x)
        new = self.new.encode(error)
        return Codes(
            indices=torch.cat([codes.indices, new.indices + self.num_frozen], dim=-1),
            values=torch.cat([codes.values, new.values], dim=-1),
            d_sae=self.d_sae,
        )

    def decode(self, codes: Codes) -> Float[Tensor, "*batch d_in"]:
        """The sum of what the codes stand for in both parts."""
        new = codes.indices >= self.num_frozen
        written = self.new.decode(_some(codes, new, self.num_frozen, self.new.d_sae))
        return written if self.base is None else written + self.base.decode(_some(codes, ~new, 0, self.num_frozen))

    @property
    def directions(self) -> Float[Tensor, "d_sae d_in"]:
        """What one unit of each feature adds to the activation: the frozen part's, then the new ones."""
        return self.new.directions if self.base is None else torch.cat([self.base.directions, self.new.directions])

    @classmethod
    def sized(cls, d_in: int, d_sae: int, l0: int) -> Self:
        """A dictionary of that size without a frozen part."""
        return cls(d_in, cls.Config(d_sae=d_sae, k=l0))

    @torch.no_grad()
    def initialise(self, sample: Float[Tensor, "row d_in"], generator: torch.Generator) -> None:
        """The new part's weights, from the errors on the sample."""
        errors = torch.cat([self.frozen(part)[1] for part in sample.split(_PART)])
        self.new.initialise(errors, generator)
        if self.base is not None:
            self.new.b_dec.zero_()
            self.new.start_threshold(errors)

    def losses(self, rows: Float[Tensor, "row d_in"], dead: Int[Tensor, " dead"], progress: float | Float[Tensor, ""]) -> Losses:
        """The terms of BatchTopK on the errors; only the new part has gradients, and only its dead features are revived."""
        codes, error = self.frozen(rows)
        found = self.new.losses(error, dead[dead >= self.num_frozen] - self.num_frozen, progress)
        fired = (codes.values != 0).to(found.active).flatten()
        active = found.active.new_zeros(self.num_frozen).index_add_(0, codes.indices.flatten(), fired)
        target, ranks = rows.to(error), self.new.ranks
        variance = ranks.spread(target - ranks.mean(target[:1]))
        return Losses(found.terms, torch.cat([active, found.active]), target, found.residual, found.error, variance)

    def unit_rows(self) -> tuple[nn.Parameter, ...]:
        """Those of the new part."""
        return self.new.unit_rows()

    def after_step(self) -> None:
        """What BatchTopK does to its weights."""
        self.new.after_step()

    def default_lr(self) -> float:
        """That of BatchTopK with the new part's number of features."""
        return self.new.default_lr()

    def settings(self) -> dict[str, Any]:
        """The frozen part's `cfg.json`, where there is one."""
        return {} if self.base is None else {"base": settings_of(self.base)}

    def tensors(self) -> dict[str, Tensor]:
        """The new part's weights under SAELens' names, and the frozen part's behind `base.`."""
        frozen = {} if self.base is None else self.base.tensors()
        return {**self.new.tensors(), **{f"{_BASE}{name}": tensor for name, tensor in frozen.items()}}

    @classmethod
    def shapes(cls, d_in: int, d_sae: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the new part's tensors."""
        return BatchTopK.shapes(d_in, d_sae)

    @classmethod
    def shapes_in(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        """Shapes that the tensors of both parts must have."""
        base = _base_settings(settings)
        if base is None:
            return cls.shapes(settings["d_in"], settings["d_sae"])
        frozen = kind_of(base).shapes_in(base, _base_tensors(tensors))
        new = cls.shapes(settings["d_in"], settings["d_sae"] - base["d_sae"])
        return {**new, **{f"{_BASE}{name}": shape for name, shape in frozen.items()}}

    @classmethod
    def restored(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Both parts of a file; the folder that the frozen one came from is not needed any more."""
        found = _base_settings(settings)
        base = None if found is None else dictionary_of(found, _base_tensors(tensors), Path(WEIGHTS_FILE))
        own = {name: tensor for name, tensor in tensors.items() if not name.startswith(_BASE)}
        d_in, d_sae = own["W_enc"].shape
        restored = cls(d_in, from_dict(cls.Config, BatchTopK.read_config(settings, d_sae)), base)
        restored.new.assign(own)
        return restored


def _writes_what_it_reads(base: Dictionary, d_in: int) -> bool:
    across = isinstance(base, Trainable) and base.places in {"target", "hooks"}
    return base.d_in == base.d_out == d_in and not across


def _some(codes: Codes, mask: Tensor, first: int, d_sae: int) -> Codes:
    """The slots of one part, whose features begin at `first`; the others are empty."""
    return Codes(indices=torch.where(mask, codes.indices - first, 0), values=torch.where(mask, codes.values, 0.0), d_sae=d_sae)


def _base_settings(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The checked settings of the frozen part; none where a file has no such part. Raises `Corrupt` for widths that do not fit."""
    if "base" not in settings:
        return None
    base = checked_settings(settings["base"], "base")
    if base["d_in"] != settings["d_in"] or not base["d_sae"] < settings["d_sae"]:
        raise Corrupt(
            f"The frozen part has {base['d_sae']} features of width {base['d_in']}, and the whole dictionary {settings['d_sae']} of width "
            f"{settings['d_in']}. Was cfg.json edited? Train the dictionary again."
        )
    return base


def _base_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(_BASE): tensor for name, tensor in tensors.items() if name.startswith(_BASE)}
