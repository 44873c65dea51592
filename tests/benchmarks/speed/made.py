"""What a trainer of the comparison is, whoever wrote it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from workload import Shape


@dataclass
class Made:
    """A dictionary with its trainer, ready for the first step."""

    fit: Callable[[Iterator[Tensor]], None]
    """The trainer's own loop, on batches until there are no more."""
    encode: Callable[[Tensor], Tensor]
    """Activations of the features: dense, or only the active ones."""


Maker = Callable[[Shape, Tensor], Made]
"""Makes a trainer of a shape on the device of some training rows, which may set its weights."""


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bfloat16 autocast where the precision says so."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def threshold(pre: Tensor, k: int) -> float:
    """The threshold over which k pre-activations a row lie."""
    flat = pre.detach().float()[:256].flatten()
    return float(flat.topk(256 * k).values[-1])
