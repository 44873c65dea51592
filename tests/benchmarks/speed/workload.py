"""What every trainer is given: the shape of a dictionary, rows like real activations, and a clock between its steps."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

BATCHES = 8
"""Batches that are made, and given in turn."""
_DIRECTIONS, _ACTIVE, _RANK = 16_384, 24, 32
"""Of the rows: sparse directions, how many of them make up a row, and the rank of what is shared."""


@dataclass(frozen=True)
class Shape:
    """One line of the comparison: width, features, active ones, rows of a batch, and whether only the encoder runs."""

    name: str
    d_in: int
    d_sae: int
    k: int
    batch: int
    encode: bool = False

    @classmethod
    def parse(cls, text: str) -> "Shape":
        """A shape by name, as `S2`, `S2@16384` (another batch) or `S2:encode`."""
        head, _, mode = text.partition(":")
        name, _, batch = head.partition("@")
        if name not in SIZES or mode not in {"", "encode"}:
            raise SystemExit(f"{text}: no such shape; a shape is one of {', '.join(SIZES)}, with @BATCH and :encode if wished.")
        d_in, d_sae, k, usual = SIZES[name]
        return cls(text, d_in, d_sae, k, int(batch or usual), mode == "encode")


SIZES = {
    "toy": (32, 256, 8, 256),
    "S1": (576, 9_216, 32, 4096),
    "S2": (768, 24_576, 32, 4096),
    "S3": (2_304, 65_536, 64, 4096),
    "S4": (4_096, 131_072, 64, 4096),
}
"""Width, features, active features and batch by name; S1 is SmolLM2-135M's residual stream, S4 that of an 8B model."""


def make_rows(shape: Shape, device: torch.device) -> list[Tensor]:
    """Batches of float32 rows, drawn on the device: a mean, a low-rank part, Zipf-distributed sparse features, noise."""
    noise = torch.Generator(device).manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=noise, device=device)

    directions = functional.normalize(normal(_DIRECTIONS, shape.d_in), dim=1)
    shared = functional.normalize(normal(_RANK, shape.d_in), dim=1)
    mean = 2 * functional.normalize(normal(shape.d_in), dim=0)
    chance = (1 / torch.arange(1, _DIRECTIONS + 1, device=device)).cumsum(0)
    batches: list[Tensor] = []
    for _ in range(BATCHES):
        drawn = chance[-1] * torch.rand(shape.batch, _ACTIVE, generator=noise, device=device)
        which = torch.searchsorted(chance, drawn).clamp(max=_DIRECTIONS - 1)
        strength = normal(shape.batch, _ACTIVE).abs() + 0.5
        sparse = functional.embedding_bag(which, directions, per_sample_weights=strength, mode="sum")
        low = normal(shape.batch, _RANK) @ shared / math.sqrt(_RANK) * 3
        x = mean + low + sparse + 0.5 * normal(shape.batch, shape.d_in) / math.sqrt(shape.d_in)
        batches.append(x * math.sqrt(shape.d_in) / 6)
    return batches


class Finished(Exception):
    """Ends a trainer's own loop once enough steps are timed."""


class Clock:
    """Gives batches in turn and notes when each was asked for: a trainer's step lasts from one request to the next.

    Arguments:
    - `batches`: what is given, again and again.
    - `warmup`: steps that are not timed.
    - `steps`: steps that are.
    - `seconds`: how long either may go on; 2 steps are not timed and 5 are all the same.
    - `cpu_time`: on a CPU, count the time that this process had of it, in place of the wall's.
    """

    def __init__(self, batches: list[Tensor], warmup: int, steps: int, seconds: float, cpu_time: bool = False) -> None:
        self.batches, self.warmup, self.steps, self.seconds = batches, warmup, steps, seconds
        self._time = time.process_time if cpu_time else time.perf_counter
        self.device = batches[0].device
        self._marks: list[torch.cuda.Event | float] = []
        self._given, self._began = 0, time.perf_counter()

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        if not self._marks and self._over(self.warmup, 2):
            reset_peak(self.device)
            self._given, self._began = 0, time.perf_counter()
            self._mark()
        elif self._marks:
            self._mark()
            if self._over(self.steps, 5):
                raise Finished
        self._given += 1
        return self.batches[self._given % len(self.batches)]

    def _over(self, most: int, least: int) -> bool:
        late = time.perf_counter() - self._began > self.seconds
        return self._given >= (min(most, least) if late else most)

    def _mark(self) -> None:
        if self.device.type == "cuda":
            mark = torch.cuda.Event(enable_timing=True)
            mark.record()
            self._marks.append(mark)
        else:
            self._marks.append(self._time())

    def milliseconds(self) -> list[float]:
        """How long each timed step took."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return [_between(before, after) for before, after in pairwise(self._marks)]


def _between(before: "torch.cuda.Event | float", after: "torch.cuda.Event | float") -> float:
    if isinstance(before, float):
        return 1e3 * (after - before)  # type: ignore[operator]
    return before.elapsed_time(after)  # type: ignore[arg-type]


def reset_peak(device: torch.device) -> None:
    """Forgets the largest memory use until now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with open("/proc/self/clear_refs", "w") as file:  # noqa: PTH123 - Linux alone
            file.write("5")


def peak_gib(device: torch.device) -> float:
    """The largest memory use since then: PyTorch's on a GPU (the batches are in it), the whole process's on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    with open("/proc/self/status") as file:  # noqa: PTH123
        (line,) = [line for line in file if line.startswith("VmHWM")]
    return int(line.split()[1]) / 2**20
