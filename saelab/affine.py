"""What all dictionaries with an affine encoder and decoder share: their weights, the decoding and the file layout."""

from collections.abc import Mapping
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saelab.dictionary import Codes, Dictionary
from saelab.kernels.sparse import gather_sum


class Affine(Dictionary):
    """Abstract: a dictionary with an affine encoder and decoder; a subclass says which pre-activations count.

    Biases are kept in units of `scale`, the root mean square of the inputs around their mean, so that one learning rate suits all weights
    whatever the size of the activations. `scale` is 1 in a dictionary that was read from a file.
    """

    def __init__(self, d_in: int, d_sae: int) -> None:
        super().__init__()
        self.d_in, self.d_sae = d_in, d_sae
        self.encoder = nn.Parameter(torch.zeros(d_sae, d_in))
        self.decoder = nn.Parameter(torch.zeros(d_sae, d_in))
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.b_dec = nn.Parameter(torch.zeros(d_in))
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(()))

    def weights(self) -> tuple[Float[Tensor, "d_sae d_in"], Float[Tensor, " d_sae"], Float[Tensor, "d_sae d_in"]]:
        """Encoder, encoder bias and decoder for raw activations; differentiable."""
        return self.encoder, self.b_enc * self.scale, self.decoder

    @property
    def directions(self) -> Float[Tensor, "d_sae d_in"]:
        """What one unit of each feature adds to the activation: the decoder's rows."""
        return self.weights()[2].detach()

    @property
    def W_enc(self) -> Float[Tensor, "d_in d_sae"]:
        """The encoder in SAELens' orientation; read only."""
        return self.weights()[0].detach().T

    @property
    def W_dec(self) -> Float[Tensor, "d_sae d_in"]:
        """The decoder in SAELens' orientation; read only."""
        return self.directions

    def centred(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "row d_in"]:
        """Raw activations as rows in the weights' precision, less the decoder's bias."""
        return x.reshape(-1, self.d_in).to(self.b_dec.dtype) - self.offset()

    def offset(self) -> Float[Tensor, " d_out"]:
        """The decoder's bias for raw activations."""
        return self.b_dec * self.scale

    def decode(self, codes: Codes) -> Float[Tensor, "*batch d_out"]:
        """The activations that the codes stand for: the sum of decoder rows times activations, plus the bias."""
        slots = codes.values.shape[-1]
        rows = gather_sum(codes.values.reshape(-1, slots), codes.indices.reshape(-1, slots), self.weights()[2])
        return (rows + self.offset()).view(*codes.values.shape[:-1], self.d_out)

    def tensors(self) -> dict[str, Tensor]:
        """The weights under SAELens' names, for raw activations."""
        encoder, b_enc, decoder = self.weights()
        return {"W_enc": encoder.T, "b_enc": b_enc, "W_dec": decoder, "b_dec": self.offset()}

    @classmethod
    def shapes(cls, d_in: int, d_sae: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors that a file must hold."""
        return {"W_enc": (d_in, d_sae), "b_enc": (d_sae,), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}

    @torch.no_grad()
    def assign(self, tensors: Mapping[str, Tensor]) -> Self:
        """Takes over weights for raw activations, under SAELens' names."""
        self.encoder.copy_(tensors["W_enc"].T)
        self.b_enc.copy_(tensors["b_enc"])
        self.decoder.copy_(tensors["W_dec"])
        self.b_dec.copy_(tensors["b_dec"])
        self.scale.fill_(1.0)
        return self


def input_statistics(sample: Float[Tensor, "row d_in"]) -> tuple[Float[Tensor, " d_in"], Float[Tensor, ""]]:
    """Mean of the rows, and the root mean square of an element around it, in float64. A constant sample has scale 1."""
    rows = sample.double()
    mean = rows.mean(0)
    scale = (rows - mean).square().mean().sqrt()
    return mean, torch.where(scale > 0, scale, torch.ones_like(scale))


def spread(x: Float[Tensor, "row width"]) -> Float[Tensor, ""]:
    """The sum of squared distances from the mean, in two passes that write nothing: for rows that are centred, or nearly."""
    size = torch.linalg.vector_norm(x, dtype=torch.promote_types(x.dtype, torch.float32))
    return size.square() - x.sum(0, dtype=size.dtype).square().sum() / len(x)
