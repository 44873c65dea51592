"""The statistics of features while they are being counted, bounded in memory, on the device where the codes are."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.features.entries import Entries, reduced
from saelab.features.statistics import BINS_PER_OCTAVE, LOWEST_OCTAVE, NUM_BINS, Statistics


class Tally:
    """Counts the statistics.

    Arguments:
    - `d_sae`: number of features.
    - `device`: where the numbers lie.
    """

    def __init__(self, d_sae: int, device: torch.device | str = "cpu") -> None:
        self.num_tokens = 0
        self.count: Int[Tensor, " d_sae"] = torch.zeros(d_sae, dtype=torch.int64, device=device)
        self.total: Float[Tensor, " d_sae"] = torch.zeros(d_sae, dtype=torch.float64, device=device)
        self.squares: Float[Tensor, " d_sae"] = torch.zeros(d_sae, dtype=torch.float64, device=device)
        self.max: Float[Tensor, " d_sae"] = torch.zeros(d_sae, device=device)
        self.min: Float[Tensor, " d_sae"] = torch.zeros(d_sae, device=device)
        self.histogram: Int[Tensor, "d_sae bins"] = torch.zeros(d_sae, NUM_BINS, dtype=torch.int32, device=device)

    def add(self, entries: Entries, num_tokens: int) -> None:
        """Counts the active codes of `num_tokens` further tokens in."""
        self.num_tokens += num_tokens
        if not len(entries):
            return
        bounds = torch.searchsorted(entries.feature, torch.arange(len(self.count) + 1, device=self.count.device, dtype=torch.int32))
        exact = entries.value.double()
        self.count += bounds.diff()
        self.total += reduced(exact, "sum", bounds)
        self.squares += reduced(exact.square_(), "sum", bounds)
        self.max = torch.maximum(self.max, reduced(entries.value, "max", bounds))
        self.min = torch.minimum(self.min, reduced(entries.value, "min", bounds))
        cells = entries.feature.long() * NUM_BINS + bins(entries.value)
        self.histogram.view(-1).index_add_(0, cells, torch.ones_like(cells, dtype=torch.int32))

    def merge(self, other: "Tally") -> None:
        """Counts in what another pass saw on other tokens."""
        self.num_tokens += other.num_tokens
        for name in ("count", "total", "squares", "histogram"):
            getattr(self, name).add_(getattr(other, name).to(self.count.device))
        self.max = torch.maximum(self.max, other.max.to(self.max.device))
        self.min = torch.minimum(self.min, other.min.to(self.min.device))

    def tensors(self) -> dict[str, Tensor]:
        """The numbers by name, for a file."""
        return {name: getattr(self, name) for name in ("count", "total", "squares", "max", "min", "histogram")}

    def load(self, tensors: Mapping[str, Tensor], num_tokens: int) -> None:
        """Takes up what `tensors` gave."""
        self.num_tokens = num_tokens
        for name in self.tensors():
            setattr(self, name, tensors[name].to(self.count.device))

    def statistics(self) -> Statistics:
        """What was counted so far."""
        return Statistics(num_tokens=self.num_tokens, **{name: tensor.cpu().numpy().copy() for name, tensor in self.tensors().items()})


def bins(value: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
    """The histogram bin of each activation's magnitude; the first and the last bin take what lies beyond."""
    return value.abs().log2_().sub_(LOWEST_OCTAVE).mul_(BINS_PER_OCTAVE).floor_().clamp_(0, NUM_BINS - 1).long()
