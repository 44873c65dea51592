"""Capture: one pass of the subject over the corpus, activations of several hooks written as they come."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saelab.activations.base import Chunk
from saelab.activations.disk import DiskStore, StoreDtype, StorePlan, StoreWriter
from saelab.activations.memory import MemoryStore
from saelab.corpus import Corpus
from saelab.errors import Invalid
from saelab.progress import track
from saelab.values import value

_LIMIT_WINDOWS = 64
"""Windows from which the usual norm of an activation is learnt."""
_Piece = tuple[Chunk, Bool[Tensor, " row"]]
"""Activations of one shard at one hook, and which of its rows are of held-out documents."""


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
class CaptureConfig:
    """What is captured, and how."""

    hooks: tuple[str, ...]
    """Places in the subject, in TransformerLens names, such as `blocks.14.hook_resid_post`; all are captured in one pass."""
    dtype: StoreDtype = "bfloat16"
    """What activations are stored as."""
    batch_tokens: int = 4096
    """Tokens in one forward pass, padding included, at most (one window at least)."""
    massive: float | None = 6.0
    """An activation whose norm is more than so many times the median is massive and left out, like the first positions; none keeps all.
    A handful of them would hold most of the variance (Sun et al. 2024, "Massive Activations in Large Language Models")."""
    shard_windows: int = 256
    """Windows that one file covers; a pass that was cut short goes on with the first file that lacks."""


def capture(subject: Captured, corpus: Corpus, config: CaptureConfig, folder_of_hook: Callable[[str], Path]) -> dict[str, DiskStore]:
    """Captures to disk, a folder a hook. It may be killed at any time: files that a pass with the same config finished are kept.

    Raises `Invalid` for a config that cannot be, `Conflict` where a folder holds another capture or cannot be written (a full disk leaves
    nothing half-written), `Corrupt` naming a finished file that is torn, and what the subject raises for an unknown hook.
    """
    _check(config)
    limits = _limits(subject, corpus, config)
    writers = {hook: StoreWriter(folder_of_hook(hook), _plan(subject, corpus, config, hook, limits[hook])) for hook in config.hooks}
    shards = _shards(corpus, config)
    lacking = {number: [hook for hook, writer in writers.items() if not writer.has(number)] for number in range(len(shards))}
    todo = [number for number, hooks in lacking.items() if hooks]
    sizes = [int(corpus.window_length[shard].sum()) for shard in shards]
    done = corpus_tokens(corpus) - sum(sizes[number] for number in todo)
    for number in track(todo, stage="capture", total=corpus_tokens(corpus), unit="tokens", done=done, size=lambda number: sizes[number]):
        for hook, (chunk, is_held_out) in _captured(subject, corpus, config, shards[number], lacking[number], limits).items():
            writers[hook].write(number, chunk, is_held_out)
    return {hook: writer.finish(len(shards)) for hook, writer in writers.items()}


def capture_in_memory(subject: Captured, corpus: Corpus, config: CaptureConfig) -> dict[str, MemoryStore]:
    """The same into memory, for small corpora. Raises `Invalid` for a config that cannot be, and what the subject raises."""
    _check(config)
    limits = _limits(subject, corpus, config)
    pieces: dict[str, list[_Piece]] = {hook: [] for hook in config.hooks}
    for shard in track(_shards(corpus, config), stage="capture", total=corpus.num_windows, unit="windows", size=len):
        for hook, piece in _captured(subject, corpus, config, shard, config.hooks, limits).items():
            pieces[hook].append(piece)
    return {
        hook: MemoryStore(hook, corpus.policy, [chunk for chunk, _ in got], [mask for _, mask in got], limits[hook])
        for hook, got in pieces.items()
    }


def corpus_tokens(corpus: Corpus) -> int:
    """Tokens that a pass over the corpus reads: those of all windows."""
    return int(corpus.window_length.sum())


def _check(config: CaptureConfig) -> None:
    if not config.hooks or len(set(config.hooks)) < len(config.hooks):
        raise Invalid("hooks must name one place in the subject at least, and none twice, such as blocks.14.hook_resid_post.")
    if config.batch_tokens < 1 or config.shard_windows < 1:
        raise Invalid("batch_tokens and shard_windows must be 1 or more.")
    if config.massive is not None and not config.massive > 1:
        raise Invalid(f"massive is {config.massive}; it is a multiple of the median norm, more than 1, or none to keep all.")


def _limits(subject: Captured, corpus: Corpus, config: CaptureConfig) -> dict[str, float | None]:
    """The norm at each hook above which an activation is massive, from the median over the first windows, to four digits."""
    if config.massive is None:
        return dict.fromkeys(config.hooks)
    first = np.arange(min(_LIMIT_WINDOWS, corpus.num_windows))
    kept = {hook: chunk.x for hook, (chunk, _) in _captured(subject, corpus, config, first, config.hooks, {}).items()}
    return {hook: float(f"{config.massive * float(x.float().norm(dim=-1).median()):.4g}") for hook, x in kept.items()}


def _plan(subject: Captured, corpus: Corpus, config: CaptureConfig, hook: str, max_norm: float | None) -> StorePlan:
    return StorePlan(
        subject=subject.name,
        hook=hook,
        dtype=config.dtype,
        policy=corpus.policy,
        max_norm=max_norm,
        corpus=corpus.sha256,
        shard_windows=config.shard_windows,
    )


def _shards(corpus: Corpus, config: CaptureConfig) -> list[Int[np.ndarray, " window"]]:
    """The windows of each shard."""
    return [
        np.arange(begin, min(begin + config.shard_windows, corpus.num_windows))
        for begin in range(0, corpus.num_windows, config.shard_windows)
    ]


def _captured(
    subject: Captured,
    corpus: Corpus,
    config: CaptureConfig,
    shard: Int[np.ndarray, " window"],
    hooks: Sequence[str],
    limits: Mapping[str, float | None],
) -> dict[str, _Piece]:
    """Runs the subject on the windows of a shard, those of like length together, and puts the rows that count in corpus order."""
    rows = corpus.window_rows[shard]
    begins = np.cumsum(rows) - rows
    window = torch.from_numpy(np.repeat(shard, rows))
    position = torch.empty(int(rows.sum()), dtype=torch.long)
    x: dict[str, Tensor] = {}
    for chosen in _batches(corpus.window_length[shard], config.batch_tokens):
        tokens, counted = corpus.windows(shard[chosen])
        places = torch.from_numpy((begins[chosen][:, None] + np.cumsum(counted, axis=1) - 1)[counted])
        position[places] = torch.from_numpy(np.nonzero(counted)[1])
        for hook, got in subject.activations(torch.from_numpy(tokens), hooks).items():
            kept = got[torch.from_numpy(counted).to(got.device)].to("cpu", getattr(torch, config.dtype))
            if hook not in x:
                x[hook] = torch.empty(len(position), kept.shape[1], dtype=kept.dtype)
            x[hook][places] = kept
    is_held_out = torch.from_numpy(corpus.window_held_out[shard].repeat(rows))
    pieces: dict[str, _Piece] = {}
    for hook in hooks:
        limit = limits.get(hook)
        kept = slice(None) if limit is None else x[hook].float().norm(dim=-1) <= limit
        pieces[hook] = Chunk(x=x[hook][kept], window=window[kept], position=position[kept]), is_held_out[kept]
    return pieces


def _batches(lengths: Int[np.ndarray, " window"], batch_tokens: int) -> Iterator[Int[np.ndarray, " window"]]:
    """Groups of windows for one forward pass, the longest first, each within the budget when padded to its longest."""
    order = np.argsort(-lengths, kind="stable")
    begin = 0
    while begin < len(order):
        count = max(1, batch_tokens // int(lengths[order[begin]]))
        yield order[begin : begin + count]
        begin += count
