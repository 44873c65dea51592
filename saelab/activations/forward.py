"""Forward passes: the subject's activations on some windows, at several hooks at once, with only the rows that count.

Everything that reads activations from a subject goes through here (capture to disk or memory, training straight from the subject), so that
the token policy, the limit for massive activations and the check for activations that are not finite are the same everywhere.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saelab.activations.base import Chunk, StoreDtype, rows_of
from saelab.corpus import Corpus
from saelab.errors import Invalid
from saelab.values import value

Piece = tuple[Chunk, Bool[Tensor, " row"]]
"""Activations of some windows at one hook, and which of its rows are of held-out documents."""
_LIMIT_WINDOWS = 64
"""Windows from which the usual norm of an activation is learnt."""


@runtime_checkable
class Captured(Protocol):
    """What capture needs of a subject."""

    @property
    def name(self) -> str:
        """The subject's id."""
        ...

    def activations(self, tokens: Int[Tensor, "window pos"], hooks: Sequence[str]) -> dict[str, Float[Tensor, "window pos d"]]:
        """Activations at some hooks; windows of unlike length are padded on the right."""
        ...


@value
class ForwardConfig:
    """How activations are read from a subject."""

    dtype: StoreDtype = "bfloat16"
    """What activations are kept as."""
    batch_tokens: int = 4096
    """Tokens in one forward pass, padding included, at most (one window at least)."""
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
        self.subject, self.corpus, self.config, self.hooks, self.device = subject, corpus, config, tuple(hooks), device
        self.limits: Mapping[str, float | None] = self._learnt() if limits is None else limits

    def shards(self) -> list[Int[np.ndarray, " window"]]:
        """The windows of each shard, in corpus order."""
        every, size = self.config.shard_windows, self.corpus.num_windows
        return [np.arange(begin, min(begin + every, size)) for begin in range(0, size, every)]

    def on(self, windows: Int[np.ndarray, " window"], hooks: Sequence[str] | None = None) -> dict[str, Piece]:
        """The rows of some windows that count, window after window in the order given; at all hooks, or at some of them.

        Windows of like length go through the subject together. Raises `Invalid` with its origin for an activation that is not finite.
        """
        return self._on(windows, self.hooks if hooks is None else hooks, self.limits)

    def _on(self, windows: Int[np.ndarray, " window"], hooks: Sequence[str], limits: Mapping[str, float | None]) -> dict[str, Piece]:
        corpus = self.corpus
        rows = corpus.window_rows[windows]
        begins = np.cumsum(rows) - rows
        window = torch.from_numpy(np.repeat(windows, rows))
        position = torch.empty(int(rows.sum()), dtype=torch.long)
        x: dict[str, Tensor] = {}
        for chosen in _batches(corpus.window_length[windows], self.config.batch_tokens):
            tokens, counted = corpus.windows(windows[chosen])
            places = torch.from_numpy((begins[chosen][:, None] + np.cumsum(counted, axis=1) - 1)[counted])
            position[places] = torch.from_numpy(np.nonzero(counted)[1])
            for hook, got in self.subject.activations(torch.from_numpy(tokens), hooks).items():
                kept = got[torch.from_numpy(counted).to(got.device)].to(self.device, getattr(torch, self.config.dtype))
                if hook not in x:
                    x[hook] = torch.empty(len(position), kept.shape[1], dtype=kept.dtype, device=self.device)
                x[hook][places.to(self.device)] = kept
        whole = Chunk(x=torch.empty(0), window=window, position=position)
        is_held_out = torch.from_numpy(corpus.window_held_out[windows].repeat(rows))
        return {hook: self._ordinary(hook, replace(whole, x=x[hook]), is_held_out, limits.get(hook)) for hook in hooks}

    def _ordinary(self, hook: str, chunk: Chunk, is_held_out: Bool[Tensor, " row"], limit: float | None) -> Piece:
        """The rows that are not massive."""
        norms = chunk.x.float().norm(dim=-1).cpu()
        strange = ~norms.isfinite()
        if strange.any():
            row = int(strange.nonzero()[0])
            place = self.corpus.origin(int(chunk.window[row]), int(chunk.position[row]))
            raise Invalid(
                f"{self.subject.name} gives an activation at {hook} that is not finite: {place}; {int(strange.sum())} of the "
                f"{len(norms)} rows read with it are like that. Run the subject in float32 (--subject.dtype float32), or leave out the "
                "document."
            )
        if limit is None:
            return chunk, is_held_out
        kept = norms <= limit
        return rows_of(chunk, kept), is_held_out[kept]

    def _learnt(self) -> dict[str, float | None]:
        """The norm at each hook above which an activation is massive, from the median over the first windows, to four digits."""
        massive = self.config.massive
        if massive is None:
            return dict.fromkeys(self.hooks)
        first = np.arange(min(_LIMIT_WINDOWS, self.corpus.num_windows))
        pieces = self._on(first, self.hooks, {})
        return {hook: float(f"{massive * float(chunk.x.float().norm(dim=-1).median()):.4g}") for hook, (chunk, _) in pieces.items()}


def _check(config: ForwardConfig, hooks: Sequence[str]) -> None:
    if not hooks or len(set(hooks)) < len(hooks):
        raise Invalid("hooks must name one place in the subject at least, and none twice, such as blocks.14.hook_resid_post.")
    if config.batch_tokens < 1 or config.shard_windows < 1:
        raise Invalid("batch_tokens and shard_windows must be 1 or more.")
    if config.massive is not None and not config.massive > 1:
        raise Invalid(f"massive is {config.massive}; it is a multiple of the median norm, more than 1, or none to keep all.")


def _batches(lengths: Int[np.ndarray, " window"], batch_tokens: int) -> Iterator[Int[np.ndarray, " window"]]:
    """Groups of windows for one forward pass, the longest first, each within the budget when padded to its longest."""
    order = np.argsort(-lengths, kind="stable")
    begin = 0
    while begin < len(order):
        count = max(1, batch_tokens // int(lengths[order[begin]]))
        yield order[begin : begin + count]
        begin += count
