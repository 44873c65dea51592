"""Forward passes: the subject's activations on some windows, at several hooks at once, with only the rows that count.

Everything that reads activations from a subject goes through here (capture to disk or memory, training straight from the subject), so that
the token policy, the limit for massive activations and the check for activations that are not finite are the same everywhere.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saelab.activations.base import Chunk, StoreDtype
from saelab.activations.prefetch import fetched, passing, ready_to_pass, sent
from saelab.activations.shapes import batches, padded
from saelab.compiled import worth_compiling
from saelab.corpus import Corpus
from saelab.errors import Invalid
from saelab.values import value

Piece = tuple[Chunk, Bool[Tensor, " row"]]
"""Activations of some windows at one hook, and which of its rows are of held-out documents."""
_CPU_TOKENS, _GPU_TOKENS = 2**12, 2**16
"""Tokens in one pass, unless the config says otherwise: on a GPU as many as keep all of it at work, in spite of what a launch costs."""
_LIMIT_WINDOWS = 64
"""Windows from which the usual norm of an activation is learnt."""


@runtime_checkable
class Captured(Protocol):
    """What capture needs of a subject."""

    @property
    def name(self) -> str:
        """The subject's id."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        ...

    def activations(
        self, tokens: Int[Tensor, "window pos"], hooks: Sequence[str], compiled: bool = False
    ) -> dict[str, Float[Tensor, "window pos d"]]:
        """Activations at some hooks; windows of unlike length are padded on the right. Compiled: by a faster program, on a GPU."""
        ...

    def recorded(self, hooks: Sequence[str]) -> Callable[[Tensor], dict[str, Tensor]] | None:
        """The same at some hooks, recorded for each shape, where the next call overwrites what one gives; on a GPU.

        None where passes cannot be recorded, or need not be.
        """
        ...


@value
class ForwardConfig:
    """How activations are read from a subject."""

    dtype: StoreDtype = "bfloat16"
    """What activations are kept as."""
    batch_tokens: int | None = None
    """Tokens in one forward pass, padding included, at most (one window at least); none for 4,096 on a CPU and 65,536 on a GPU."""
    massive: float | None = 6.0
    """An activation whose norm is more than so many times the median is massive and left out, like the first positions; none keeps all.
    A handful of them would hold most of the variance (Sun et al. 2024, "Massive Activations in Large Language Models")."""
    shard_windows: int = 256
    """Windows worked on at a time: those of one file of a store, which is where a pass that was cut short goes on."""


class Forward:
    """Runs a subject on windows of a corpus.

    Arguments:
    - `subject`: the subject.
    - `corpus`: its windows.
    - `config`: how activations are read.
    - `hooks`: where.
    - `limits`: for each hook the norm above which an activation is massive; learnt from the first windows where they are not given.
    - `device`: where the activations are put.

    Raises `Invalid` for a config that cannot be, and what the subject raises for an unknown hook.
    """

    def __init__(
        self,
        subject: Captured,
        corpus: Corpus,
        config: ForwardConfig,
        hooks: Sequence[str],
        limits: Mapping[str, float | None] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        _check(config, hooks)
        self.subject, self.corpus, self.config, self.hooks = subject, corpus, config, tuple(hooks)
        self.device, self._dtype = torch.device(device), getattr(torch, config.dtype)
        self.batch_tokens = config.batch_tokens or (_CPU_TOKENS if subject.device.type == "cpu" else _GPU_TOKENS)
        """Tokens in one pass at most, padding included."""
        worth = worth_compiling(subject.device, int(corpus.window_length.sum()))
        self._run = partial(subject.activations, compiled=True) if worth else subject.activations
        self._longest = int(corpus.window_length.max())
        self._recorded = cache(lambda hooks: subject.recorded(hooks) if worth else None)
        ready_to_pass(subject.device)
        self.limits: Mapping[str, float | None] = self._learnt() if limits is None else limits

    def shards(self) -> list[Int[np.ndarray, " window"]]:
        """The windows of each shard, in corpus order."""
        every, size = self.config.shard_windows, self.corpus.num_windows
        return [np.arange(begin, min(begin + every, size)) for begin in range(0, size, every)]

    def on(self, windows: Int[np.ndarray, " window"], hooks: Sequence[str] | None = None) -> dict[str, Piece]:
        """The rows of some windows that count, window after window in the order given; at all hooks, or at some of them.

        Windows of like length go through the subject together. Raises `Invalid` with its origin for an activation that is not finite.
        """
        return self.begin(windows, hooks)()

    def begin(self, windows: Int[np.ndarray, " window"], hooks: Sequence[str] | None = None) -> Callable[[], dict[str, Piece]]:
        """The same, begun: a GPU is told what to do, and nobody waits for it. The result waits and gives the rows, or raises."""
        corpus = self.corpus
        rows = corpus.window_rows[windows]
        with passing(self.subject.device):
            position, x = self._passed(windows, self.hooks if hooks is None else tuple(hooks))
            coming = {hook: self._ordinary(x.pop(hook), self.limits.get(hook)) for hook in list(x)}
        whole = Chunk(x=torch.empty(0), window=torch.from_numpy(np.repeat(windows, rows)), position=position)
        is_held_out = torch.from_numpy(corpus.window_held_out[windows].repeat(rows))
        return lambda: {hook: self._piece(hook, whole, is_held_out, *wait()) for hook, wait in coming.items()}

    def _passed(
        self, windows: Int[np.ndarray, " window"], hooks: tuple[str, ...]
    ) -> tuple[Int[Tensor, " row"], dict[str, Float[Tensor, "row d_in"]]]:
        """Positions, and activations where the subject runs, of the rows of some windows, through as many forward passes as it takes."""
        recorded, lengths, device = self._recorded(hooks), self.corpus.window_length[windows], self.subject.device
        run = recorded or partial(self._run, hooks=hooks)
        tokens, counted = self.corpus.windows(windows)
        row = np.cumsum(counted).reshape(counted.shape) - 1
        position = torch.from_numpy(np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)[counted])
        x: dict[str, Tensor] = {}
        for chosen in batches(lengths, self.batch_tokens, self._longest if recorded else None):
            given, there = (part[chosen, : lengths[chosen[0]]] for part in (tokens, counted))
            target = row[chosen, : lengths[chosen[0]]][there]
            if recorded:
                given, there = (padded(part, self.batch_tokens, self._longest) for part in (given, there))
            source, target = (sent(torch.from_numpy(part), device) for part in (np.flatnonzero(there), target))
            for hook, got in run(sent(torch.from_numpy(given), device)).items():
                if hook not in x:
                    x[hook] = torch.empty(len(position), got.shape[-1], dtype=self._dtype, device=device)
                x[hook][target] = got.flatten(0, 1)[source].to(self._dtype)
        return position, x

    def _ordinary(self, x: Float[Tensor, "row d_in"], limit: float | None) -> Callable[[], tuple[Tensor, ...]]:
        """The activations, massive ones last, and the norms of all in their first order, on their ways to where they are wanted.

        How many are massive, only the GPU knows for now.
        """
        norms = torch.linalg.vector_norm(x, dim=-1, dtype=torch.float32)
        if limit is not None:
            x = x[torch.argsort(norms > limit, stable=True)]
        if self.device.type == "cpu":
            return fetched(x, norms)
        there = sent(x, self.device)
        known = fetched(sent(norms, self.device))  # behind the activations, so that they are there when these are known

        def wait() -> tuple[Tensor, ...]:
            (here,) = known()
            if there.is_cuda:
                there.record_stream(torch.cuda.current_stream(there.device))  # which may be another than where it was begun
            return there, here

        return wait

    def _piece(self, hook: str, chunk: Chunk, is_held_out: Bool[Tensor, " row"], x: Tensor, norms: Tensor) -> Piece:
        """The rows that are not massive."""
        strange = ~np.isfinite(norms.numpy())
        if strange.any():
            row = int(strange.argmax())
            place = self.corpus.origin(int(chunk.window[row]), int(chunk.position[row]))
            raise Invalid(
                f"{self.subject.name} gives an activation at {hook} that is not finite: {place}; {int(strange.sum())} of the "
                f"{len(norms)} rows read with it are like that. Run the subject in float32 (--subject.dtype float32), or leave out the "
                "document."
            )
        limit = self.limits.get(hook)
        if limit is None:
            return replace(chunk, x=x), is_held_out
        kept = torch.from_numpy(np.flatnonzero(norms.numpy() <= limit))  # many times as fast as by a mask
        window, position, is_held_out = (part.index_select(0, kept) for part in (chunk.window, chunk.position, is_held_out))
        return Chunk(x=x[: len(kept)], window=window, position=position), is_held_out

    def _learnt(self) -> dict[str, float | None]:
        """The norm at each hook above which an activation is massive, from the median over the first windows, to four digits."""
        massive = self.config.massive
        if massive is None:
            return dict.fromkeys(self.hooks)
        first = np.arange(min(_LIMIT_WINDOWS, self.corpus.num_windows))
        self.limits = {}
        pieces = self.on(first)
        return {hook: float(f"{massive * float(chunk.x.float().norm(dim=-1).median()):.4g}") for hook, (chunk, _) in pieces.items()}


def _check(config: ForwardConfig, hooks: Sequence[str]) -> None:
    if not hooks or len(set(hooks)) < len(hooks):
        raise Invalid("hooks must name one place in the subject at least, and none twice, such as blocks.14.hook_resid_post.")
    if min(config.shard_windows, 1 if config.batch_tokens is None else config.batch_tokens) < 1:
        raise Invalid("batch_tokens and shard_windows must be 1 or more.")
    if config.massive is not None and not config.massive > 1:
        raise Invalid(f"massive is {config.massive}; it is a multiple of the median norm, more than 1, or none to keep all.")
