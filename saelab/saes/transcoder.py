"""Transcoder: reads activations at one hook and writes those at another, so that its features say what a layer does.

    pre = (x - E[x]) encoderᵀ + b_enc        y^ = z decoder + b_dec (+ (x - E[x]) skipᵀ)        loss = |y - y^|² / scale(y)² + AuxK

z are the codes of BatchTopK or of TopK. Dunefsky, Chlenski, Nanda 2024, "Transcoders find interpretable LLM feature circuits",
https://arxiv.org/abs/2406.11944: the target is what an MLP makes of its input. Paulo, Shabalin, Belrose 2025, "Transcoders beat sparse
autoencoders for interpretability", https://arxiv.org/abs/2501.18823: the linear skip connection, which begins at zero.

A training row holds the input and behind it the target. The mean of the inputs and the scales of both are folded into the saved weights:
there, and in SAELens, `pre = x W_enc + b_enc` and `y^ = z W_dec + b_dec (+ x W_skipᵀ)`. With TopK codes the layouts are `topk_transcoder`
and `topk_skip_transcoder`, which SAELens refuses: it has no such transcoder and must not take it for one with ReLU.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from saelab.affine import input_statistics
from saelab.dictionary import DICTIONARIES, Codes, Places
from saelab.errors import Invalid
from saelab.saes.base import FREE_NORM, Kept, Task, Weights, largest
from saelab.saes.batchtopk import BatchTopK
from saelab.values import from_dict, value

_NOISE = 0.1
"""Size of the noise in the first decoder rows beside what the sample shows."""
_START_ROWS = 4096
"""Rows of the sample from which the decoder is set before the first step."""


@DICTIONARIES.register("transcoder")
class Transcoder(BatchTopK):
    """Features read at one hook that write at another."""

    architecture: ClassVar[str] = "transcoder"
    recordable: ClassVar[bool] = False  # not tried on a GPU
    layout: ClassVar[str] = "jumprelu_transcoder"
    bias_is_read: ClassVar[bool] = False
    places: ClassVar[Places] = "target"

    @value
    class Config(BatchTopK.Config):
        """Settings of a transcoder."""

        d_out: int | None = None
        """Width of the activations that it writes; none for that of those it reads."""
        selection: Literal["batchtopk", "topk"] = "batchtopk"
        """batchtopk: k features a token on average, in use those over a threshold. topk: k on every token."""
        skip: bool = False
        """Add a linear map from the input to the output."""

    def __init__(self, d_in: int, config: Config) -> None:
        super().__init__(d_in, config)
        self.selection: str = config.selection
        """How features are chosen."""
        d_out = d_in if config.d_out is None else config.d_out
        if d_out < 1:
            raise Invalid(f"d_out is {d_out}; it is the width of the activations that a transcoder writes, 1 at least.")
        self.decoder = nn.Parameter(torch.zeros(self.d_sae, d_out))
        self.b_dec = nn.Parameter(torch.zeros(d_out))
        self.skip = nn.Parameter(torch.zeros(d_out, d_in)) if config.skip else None
        self.centre: Tensor
        self.gain: Tensor
        self.register_buffer("centre", torch.zeros(d_in))  # the mean of the inputs
        self.register_buffer("gain", torch.ones(()))  # scale of the targets over that of the inputs
        kind = "topk_" if config.selection == "topk" else "jumprelu_"
        self.layout = f"{kind}{'skip_' if config.skip else ''}transcoder"  # pyright: ignore[reportAttributeAccessIssue] - of the config

    @classmethod
    def for_widths(cls, widths: Sequence[int], config: Config) -> Self:
        """A transcoder between two hooks. Raises `Invalid` where the config asks for another width."""
        d_in, d_out = widths
        if config.d_out not in {None, d_out}:
            raise Invalid(f"d_out is {config.d_out}, but the activations of the target hook have width {d_out}. Leave d_out out.")
        return cls(d_in, replace(config, d_out=d_out))

    @property
    def d_out(self) -> int:
        """Width of what it writes."""
        return self.b_dec.shape[0]

    @property
    def width(self) -> int:
        """Values in a training row: the input, and behind it the target."""
        return self.d_in + self.d_out

    def weights(self) -> tuple[Float[Tensor, "d_sae d_in"], Float[Tensor, " d_sae"], Float[Tensor, "d_sae d_out"]]:
        """Encoder, encoder bias and decoder for raw activations; differentiable."""
        encoder, bias, decoder = super().weights()
        encoder = encoder * self.gain
        return encoder, bias - encoder @ self.centre, decoder

    def skip_weights(self) -> Float[Tensor, "d_out d_in"] | None:
        """The linear map for raw activations; none without a skip connection."""
        return None if self.skip is None else self.skip * self.gain

    def offset(self) -> Float[Tensor, " d_out"]:
        """The output's bias for raw activations."""
        bias, skip = self.b_dec * self.scale, self.skip_weights()
        return bias if skip is None else bias - skip @ self.centre

    def centred(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "row d_in"]:
        """Raw activations as rows in the weights' precision: their mean is in the encoder's bias."""
        return x.reshape(-1, self.d_in).to(self.b_dec.dtype)

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Codes:
        """The pre-activations that exceed the threshold, or the k largest where they are positive."""
        if self.selection == "batchtopk":
            return super().encode(x)
        values, indices, _ = self.select(self.centred(x), Weights(*self.weights()))
        shape = (*x.shape[:-1], self.config.k)
        return Codes(indices=indices.view(shape), values=values.view(shape), d_sae=self.d_sae)

    def written(self, x: Float[Tensor, "*batch d_in"], codes: Codes) -> Float[Tensor, "*batch d_out"]:
        """What the codes stand for, and what the skip connection adds."""
        skip = self.skip_weights()
        return self.decode(codes) if skip is None else self.decode(codes) + functional.linear(x.to(self.b_dec.dtype), skip)

    def select(self, x: Float[Tensor, "row d_in"], weights: Weights) -> Kept:
        """The largest pre-activations: k a row on average, or of each row."""
        return largest(x, weights, self.config.k) if self.selection == "topk" else super().select(x, weights)

    def task(self, rows: Float[Tensor, "row width"]) -> Task:
        """What training rows ask: to write the target, less what bias and skip connection write."""
        rows = rows.to(self.b_dec.dtype)
        x, target = (rows[:, : self.d_in] - self.centre) * self.gain, rows[:, self.d_in :]
        wanted = target - self.b_dec * self.scale
        variance = self.ranks.spread(wanted.detach())
        if self.skip is not None:
            wanted = wanted - functional.linear(x, self.skip)
        return Task(x, wanted, None, Weights(*super().weights()), offset=None, target=target, variance=variance)

    @torch.no_grad()
    def initialise(self, sample: Float[Tensor, "row width"], generator: torch.Generator) -> None:
        """Encoder rows random of norm 1; each decoder row is what the target shows on average where its feature is active."""
        mean, scale = input_statistics(sample[:, : self.d_in])
        target_mean, target_scale = input_statistics(sample[:, self.d_in :])
        self.encoder.copy_(functional.normalize(torch.randn(self.d_sae, self.d_in, generator=generator), dim=1))
        self.centre.copy_(mean)
        self.gain.copy_(target_scale / scale)
        self.scale.copy_(target_scale)
        self.b_enc.zero_()
        self.b_dec.copy_(target_mean / target_scale)
        if self.skip is not None:
            self.skip.zero_()
        x, wanted, *_ = self.task(sample[:_START_ROWS])
        shown = functional.linear(x, self.encoder).relu_().T @ wanted
        noise = functional.normalize(torch.randn(shown.shape, generator=generator), dim=1).to(shown)
        self.decoder.copy_(functional.normalize(functional.normalize(shown, dim=1) + _NOISE * noise, dim=1))
        if self.config.decoder == "free":
            self.decoder.mul_(FREE_NORM)
            self.encoder.mul_(FREE_NORM)
        self.start_threshold(sample)

    def tensors(self) -> dict[str, Tensor]:
        """The weights under SAELens' names, for raw activations; a threshold only where it decides."""
        tensors = super().tensors()
        if self.selection == "topk":
            del tensors["threshold"]
        skip = self.skip_weights()
        return tensors if skip is None else {**tensors, "W_skip": skip}

    def settings(self) -> dict[str, Any]:
        """What SAELens' `cfg.json` says beyond the sizes."""
        return {"d_out": self.d_out, **({"k": self.config.k} if self.selection == "topk" else {})}

    @classmethod
    def shapes_in(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors of a file: `d_out` is said, threshold and skip connection are where the layout or the config has them."""
        d_in, d_sae = settings["d_in"], settings["d_sae"]
        d_out = settings.get("d_out", d_in)
        if settings.get("apply_b_dec_to_input", False):
            raise Invalid("apply_b_dec_to_input is true; a transcoder's decoder bias belongs to its output. Save it again with false.")
        shapes = {"W_enc": (d_in, d_sae), "b_enc": (d_sae,), "W_dec": (d_sae, d_out), "b_dec": (d_out,)}
        layout = str(settings.get("architecture", ""))
        said = layout.endswith("transcoder")
        if ("jumprelu" in layout) if said else ("threshold" in tensors):
            shapes["threshold"] = (d_sae,)
        if ("skip" in layout) if said else ("W_skip" in tensors):
            shapes["W_skip"] = (d_out, d_in)
        return shapes

    @classmethod
    def restored(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """The transcoder of a file: with thresholds, with a number `k` of features, or with neither: then all positive ones are active."""
        d_in, d_sae = tensors["W_enc"].shape
        topk = "threshold" not in tensors and "k" in settings
        config = {
            **cls.read_config(settings, d_sae),
            "d_out": tensors["W_dec"].shape[1],
            "selection": "topk" if topk else "batchtopk",
            "skip": "W_skip" in tensors,
        }
        return cls(d_in, from_dict(cls.Config, config)).assign(tensors)

    @torch.no_grad()
    def assign(self, tensors: Mapping[str, Tensor]) -> Self:
        """Takes over weights for raw activations, under SAELens' names."""
        threshold = tensors.get("threshold", torch.zeros(self.d_sae)).clamp(min=0.0)
        if self.skip is not None:
            self.skip.copy_(tensors["W_skip"])
        self.centre.zero_()
        self.gain.fill_(1.0)
        return super().assign({**tensors, "threshold": threshold})
