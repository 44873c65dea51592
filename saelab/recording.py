"""Recorded steps: what a GPU does for a training step, recorded once as a CUDA graph and replayed, so that Python is not waited for.

A step can be recorded when its tensors have the same shapes each time, it changes its state in place, and it decides nothing on the host.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class _Recorded(Generic[T]):
    graph: torch.cuda.CUDAGraph
    read: Tensor
    result: T


class Recording(Generic[T]):
    """Runs a step of one tensor: the first time of a kind as it is, which makes its state and kernels, from then on as a recording.

    The result of a recorded step lies in memory that the next one overwrites. All steps of a recording belong on one stream. Encoding
    batches of one size can be recorded too:

        encode = Recording(sae.encode)
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
            codes = encode(x)
    """

    def __init__(self, step: Callable[[Tensor], T]) -> None:
        self._step = step
        self._seen: set[Hashable] = set()
        self._recorded: dict[Hashable, _Recorded[T]] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, x: Tensor, kind: Hashable = None) -> T:
        """One step. Steps of one `kind` do the same on tensors of the same shapes."""
        kind = (kind, x.shape, x.dtype)
        if kind not in self._seen:
            self._seen.add(kind)
            return self._step(x)
        if kind not in self._recorded:
            self._recorded[kind] = self._record(x)
        found = self._recorded[kind]
        found.read.copy_(x)
        found.graph.replay()
        return found.result

    def _record(self, x: Tensor) -> _Recorded[T]:
        """The step, recorded on the stream that it is for, since cuBLAS has a workspace for each: steps that run beside each other on two
        streams must not share one. What the default stream runs is recorded on one of PyTorch's own.

        Only this thread is kept from what a recording forbids: others may read batches meanwhile, and ask for memory.
        """
        graph, read = torch.cuda.CUDAGraph(), x.clone()
        here = torch.cuda.current_stream(x.device)
        stream = None if here == torch.cuda.default_stream(x.device) else here
        with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
            result = self._step(read)
        return _Recorded(graph, read, result)


class Told:
    """What a GPU will tell about itself, asked without waiting."""

    def __init__(self, number: Tensor) -> None:
        self._number = number.to("cpu", non_blocking=True, copy=True)
        self._there = torch.cuda.Event() if number.is_cuda else None
        if self._there is not None:
            self._there.record()

    def read(self) -> float:
        """The number; waits for it, if it is not there yet."""
        if self._there is not None:
            self._there.synchronize()
        return float(self._number)
