"""What a pass over features reads: the activations of some dictionaries, so that what several of them need is read once.

Captured activations of the same hooks are read from disk once for all dictionaries there. Dictionaries that were trained straight from the
subject share its forward pass, whatever their hooks; each still gets just the rows that it would get alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from saelab.activations.base import ActivationStore, Chunk
from saelab.activations.buffer import BufferConfig
from saelab.activations.forward import Forward, Piece
from saelab.activations.joined import joined
from saelab.features.collect import Chunks
from saelab.lab import Lab
from saelab.values import from_dict


class _Stored:
    """The chunks of a store; the last one is held for the next dictionary that asks for it."""

    def __init__(self, store: ActivationStore) -> None:
        self._store = store
        self._last: tuple[int, Chunk] | None = None

    def chunk_rows(self) -> tuple[int, ...]:
        """Rows of each chunk."""
        return self._store.chunk_rows()

    def chunk(self, number: int) -> Chunk:
        """One chunk."""
        if self._last is None or self._last[0] != number:
            self._last = (number, self._store.chunk(number))
        return self._last[1]


class _Shared:
    """Forward passes of one subject for all dictionaries that read it in the same way; the last one is held."""

    def __init__(self, lab: Lab, config: BufferConfig) -> None:
        self.config, self._lab = config, lab
        self._limits: dict[str, float | None] = {}
        self._hooks: dict[str, None] = {}
        self._last: tuple[int, Mapping[str, Piece]] | None = None

    def takes(self, limits: Mapping[str, float | None], config: BufferConfig) -> bool:
        """Whether a dictionary with these limits reads the same rows here as alone."""
        return config == self.config and all(self._limits.get(hook, limit) == limit for hook, limit in limits.items())

    def join(self, hooks: Sequence[str], limits: Mapping[str, float | None]) -> "_Streamed":
        """The chunks of some hooks."""
        self._limits |= limits
        self._hooks |= dict.fromkeys(hooks)
        return _Streamed(self, tuple(hooks))

    @cached_property
    def forward(self) -> Forward:
        """The forward pass, once all have joined."""
        return Forward(self._lab.subject, self._lab.corpus, self.config, tuple(self._hooks), self._limits)

    def pieces(self, number: int) -> Mapping[str, Piece]:
        """The rows of one chunk at every hook."""
        if self._last is None or self._last[0] != number:
            self._last = (number, self.forward.on(self.forward.shards()[number]))
        return self._last[1]


class _Streamed:
    """The chunks of some hooks of a shared forward pass, side by side."""

    def __init__(self, shared: _Shared, hooks: tuple[str, ...]) -> None:
        self._shared, self._hooks = shared, hooks

    def chunk_rows(self) -> tuple[int, ...]:
        """Rows of each chunk, massive activations among them."""
        forward = self._shared.forward
        return tuple(int(forward.corpus.window_rows[shard].sum()) for shard in forward.shards())

    def chunk(self, number: int) -> Chunk:
        """One chunk."""
        pieces = self._shared.pieces(number)
        return joined([pieces[hook][0] for hook in self._hooks], self._shared.forward.corpus.policy.context)


class _Inputs:
    """What a dictionary reads of its rows, without a target behind it."""

    def __init__(self, rows: Chunks, d_in: int) -> None:
        self._rows, self._d_in = rows, d_in

    def chunk_rows(self) -> tuple[int, ...]:
        """Rows of each chunk."""
        return self._rows.chunk_rows()

    def chunk(self, number: int) -> Chunk:
        """One chunk."""
        chunk = self._rows.chunk(number)
        return replace(chunk, x=chunk.x[:, : self._d_in])


def readings(labs: Sequence[Lab]) -> list[Chunks]:
    """The activations that each lab's dictionary reads. Raises what opening them raises."""
    stored: dict[tuple[str, ...], _Stored] = {}
    shared: list[_Shared] = []
    found: list[Chunks] = []
    for lab in labs:
        hooks, stream = tuple(lab.origin.row_hooks), lab.folder.need("train").config.get("stream")
        if stream is None:
            if hooks not in stored:
                stored[hooks] = _Stored(lab.store)
            rows: Chunks = stored[hooks]
        else:
            config, limits = from_dict(BufferConfig, stream), lab.origin.limits()
            fitting = next((one for one in shared if one.takes(limits, config)), None)
            if fitting is None:
                fitting = _Shared(labs[0], config)
                shared.append(fitting)
            rows = fitting.join(hooks, limits)
        found.append(_Inputs(rows, lab.dictionary.d_in))
    return found
