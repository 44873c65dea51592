"""Activations straight from the subject: a store that keeps nothing, and runs the subject whenever it is read."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int

from saelab.activations.base import ActivationStore, Chunk
from saelab.activations.forward import Captured, Forward, ForwardConfig, Piece
from saelab.activations.joined import joined
from saelab.activations.pooled import need_one_width, pooled
from saelab.activations.prefetch import AHEAD, begun
from saelab.activations.shuffle import seeded
from saelab.corpus import Corpus


class SubjectStore(ActivationStore):
    """The activations of a corpus at one or several hooks, read by running the subject: one forward pass serves all hooks.

    It has the chunks of a captured store with the same config, and needs no disk. How many rows are massive shows only when a chunk is
    read, so that its counts are upper bounds (`exact` is False).

    Arguments:
    - `subject`: the subject.
    - `corpus`: its windows.
    - `config`: how activations are read.
    - `hooks`: where.
    - `limits`: for each hook the norm above which an activation is massive, where it is known, as from a dictionary's provenance.
    - `pooled`: several hooks as rows one after another (`PooledStore`), not side by side (`JoinedStore`).
    - `device`: where the activations are put.

    Raises `Invalid` for a config that cannot be, and what the subject raises for an unknown hook.
    """

    hooks: tuple[str, ...]
    """Where the activations are taken."""
    widths: tuple[int, ...]
    """Width of the activations at each hook."""

    def __init__(
        self,
        subject: Captured,
        corpus: Corpus,
        config: ForwardConfig,
        hooks: Sequence[str],
        limits: Mapping[str, float | None] | None = None,
        pooled: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self._forward = Forward(subject, corpus, config, hooks, limits, device)
        self.corpus, self.hooks, self.pooled, self.device = corpus, tuple(hooks), pooled, torch.device(device)
        self.policy, self.exact = corpus.policy, config.massive is None
        self.max_norm = self._forward.limits[hooks[0]] if len(hooks) == 1 else None
        self.hook = (", " if pooled else " + ").join(hooks)
        first = self._forward.on(np.array([0]))
        self.widths = tuple(first[hook][0].x.shape[1] for hook in hooks)
        if pooled:
            need_one_width(dict(zip(hooks, self.widths, strict=True)))
        self.d_in = self.widths[0] if pooled else sum(self.widths)
        self._shards = self._forward.shards()
        self._train_windows = np.flatnonzero(~corpus.window_held_out)
        self._ahead = 0 if subject.device.type == "cpu" else AHEAD
        of_pass = self._forward.batch_tokens // corpus.policy.context
        self._portion = max(config.shard_windows, of_pass) if self._ahead else config.shard_windows  # a GPU waits at short passes
        self._last_order = (-1, -1, self._train_windows)

    @property
    def max_norms(self) -> tuple[float | None, ...]:
        """Norm at each hook above which an activation is massive."""
        return tuple(self._forward.limits.get(hook) for hook in self.hooks)

    @cached_property
    def dtype(self) -> torch.dtype:
        """Number format of the activations."""
        return getattr(torch, self._forward.config.dtype)

    def chunk_rows(self, held_out: bool | None = None) -> tuple[int, ...]:
        """Rows of each chunk, massive ones among them."""
        return self._rows[held_out]

    @cached_property
    def _rows(self) -> dict[bool | None, tuple[int, ...]]:
        times = len(self.hooks) if self.pooled else 1
        kinds = (None, True, False)
        rows = self.corpus.window_rows
        return {kind: tuple(times * int(rows[self._of_kind(shard, kind)].sum()) for shard in self._shards) for kind in kinds}

    def chunk(self, number: int, held_out: bool | None = None) -> Chunk:
        """One chunk, or its part of one kind: a forward pass on its windows. Raises `Invalid` for an activation that is not finite."""
        return self.on(self._of_kind(self._shards[number], held_out))

    def chunks(self, held_out: bool | None = None, start: int = 0) -> Iterator[Chunk]:
        """The chunks in corpus order, empty ones left out; a GPU goes on with the next while one is in use."""
        windows = (self._of_kind(self._shards[number], held_out) for number in self._numbers(held_out)[start:])
        return map(self._side_by_side, begun(map(self._forward.begin, windows), self._ahead))

    def on(self, windows: Int[np.ndarray, " window"]) -> Chunk:
        """The rows of some windows, in the order given."""
        return self._side_by_side(self._forward.on(windows))

    def _side_by_side(self, pieces: Mapping[str, Piece]) -> Chunk:
        chunks = [pieces[hook][0] for hook in self.hooks]
        return pooled(chunks) if self.pooled and len(chunks) > 1 else joined(chunks, self.policy.context)

    def shuffled(self, seed: int, portion: int) -> Chunk:
        """One portion of an endless stream of training rows: those of random windows, in the order of the windows.

        They are `shard_windows`, on a GPU as many as fill a forward pass. In an epoch every window of the documents that are not held
        out comes once. Portions follow from seed and number alone. Raises `Invalid` where all documents are held out.
        """
        return self.begin(seed, portion)()

    def begin(self, seed: int, portion: int) -> Callable[[], Chunk]:
        """The same, begun: on a GPU, that goes on by itself. The result waits and gives the portion."""
        self.need_rows(False)
        size = self._portion
        epoch, part = divmod(portion, -(-len(self._train_windows) // size))
        coming = self._forward.begin(self._train_windows[self._order(seed, epoch)[part * size : (part + 1) * size]])
        return lambda: self._side_by_side(coming())

    def _order(self, seed: int, epoch: int) -> Int[np.ndarray, " window"]:
        """The order of the training windows in an epoch; the last one is kept."""
        if self._last_order[:2] != (seed, epoch):
            order = torch.randperm(len(self._train_windows), generator=seeded(seed, epoch)).numpy()
            self._last_order = (seed, epoch, order)
        return self._last_order[2]

    def _of_kind(self, windows: Int[np.ndarray, " window"], held_out: bool | None) -> Int[np.ndarray, " window"]:
        return windows if held_out is None else windows[self.corpus.window_held_out[windows] == held_out]
