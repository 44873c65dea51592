"""A subject without a model: an activation says which token it is of, where, and at which hook."""

from collections.abc import Sequence

import torch
from torch import Tensor

D_IN = 6


class FakeSubject:
    """Counts its forward passes and the tokens in them."""

    name = "fake"
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.passes = 0
        self.shapes: list[tuple[int, int]] = []

    @torch.inference_mode()
    def activations(self, tokens: Tensor, hooks: Sequence[str]) -> dict[str, Tensor]:
        self.passes += 1
        self.shapes.append((tokens.shape[0], tokens.shape[1]))
        position = torch.arange(tokens.shape[1]).expand(tokens.shape)
        return {hook: torch.stack([tokens, position, *[tokens * 0 + len(hook)] * (D_IN - 2)], dim=-1).float() for hook in hooks}
