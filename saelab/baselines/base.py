"""What the baselines share: fixed directions, and the k largest codes by magnitude, with their signs."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor

from saelab.affine import Affine
from saelab.dictionary import Codes
from saelab.errors import Invalid
from saelab.values import value


class Baseline(Affine):
    """Abstract: a dictionary that is fitted, not trained. Codes are signed."""

    layout: ClassVar[str] = "abstopk"

    @value
    class Config:
        """What a baseline is fitted with, beside activations."""

        k: int = 32
        """Directions that are active on one token."""

    def __init__(self, d_in: int, d_sae: int, k: int) -> None:
        if not 0 < k <= d_sae:
            raise Invalid(f"k is {k}; it must be between 1 and the number of directions, {d_sae}.")
        super().__init__(d_in, d_sae)
        self.k = k
        self.requires_grad_(False)

    @classmethod
    @abstractmethod
    def fit(cls, sample: Float[Tensor, "row d_in"], k: int, d_sae: int | None = None, seed: int = 0) -> Self:
        """The baseline for activations like the sample, with k active directions a token.

        `d_sae` and `seed` matter only where directions are drawn. Raises `Invalid` if k is larger than the number of directions.
        """

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Codes:
        """The k projections of largest magnitude of each token, with their signs."""
        encoder, bias, _ = self.weights()
        pre = torch.nn.functional.linear(self.centred(x), encoder, bias).to(encoder.dtype)
        indices = pre.abs().topk(self.k, sorted=False).indices
        shape = (*x.shape[:-1], self.k)
        return Codes(indices=indices.view(shape), values=pre.gather(1, indices).view(shape), d_sae=self.d_sae)

    def settings(self) -> dict[str, Any]:
        """What SAELens' `cfg.json` says beyond the sizes."""
        return {"k": self.k, "rescale_acts_by_decoder_norm": False}

    @classmethod
    def restored(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """The dictionary of a file's settings and tensors."""
        d_sae, d_in = tensors["W_dec"].shape
        return cls(d_in, d_sae, settings.get("k", 100)).assign(tensors)
