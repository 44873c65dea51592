"""Capture: one pass of the subject over the corpus, activations of several hooks written as they come."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from saelab.activations.disk import DiskStore, StorePlan, StoreWriter
from saelab.activations.forward import Captured, Forward, ForwardConfig, Piece
from saelab.activations.memory import MemoryStore
from saelab.activations.prefetch import AHEAD, begun
from saelab.corpus import Corpus
from saelab.progress import track
from saelab.values import value

_WRITERS = 4
"""Shards that are written at a time: one is summed and copied while others are on their way to the disk."""


@value
class CaptureConfig(ForwardConfig):
    """What is captured, and how."""

    hooks: tuple[str, ...]
    """Places in the subject, in TransformerLens names, such as `blocks.14.hook_resid_post`; all are captured in one pass."""


def capture(subject: Captured, corpus: Corpus, config: CaptureConfig, folder_of_hook: Callable[[str], Path]) -> dict[str, DiskStore]:
    """Captures to disk, a folder a hook. It may be killed at any time: files that a pass with the same config finished are kept.

    Raises `Invalid` for a config that cannot be and, with its origin, for an activation that is not finite; `Conflict` where a folder
    holds another capture or cannot be written (a full disk leaves nothing half-written); `Corrupt` naming a finished file that is torn;
    and what the subject raises for an unknown hook.
    """
    forward = Forward(subject, corpus, config, config.hooks)
    writers = {hook: StoreWriter(folder_of_hook(hook), _plan(forward, hook)) for hook in config.hooks}
    shards = forward.shards()
    lacking = {number: [hook for hook, writer in writers.items() if not writer.has(number)] for number in range(len(shards))}
    todo = [number for number, hooks in lacking.items() if hooks]
    sizes = [int(corpus.window_length[shard].sum()) for shard in shards]
    done = corpus_tokens(corpus) - sum(sizes[number] for number in todo)

    def write(number: int, coming: Callable[[], dict[str, Piece]]) -> None:
        for hook, (chunk, is_held_out) in coming().items():
            writers[hook].write(number, chunk, is_held_out)

    numbers = track(todo, stage="capture", total=corpus_tokens(corpus), unit="tokens", done=done, size=sizes.__getitem__)
    pool = ThreadPoolExecutor(_WRITERS, thread_name_prefix="saelab-writer")
    works = (pool.submit(write, number, forward.begin(shards[number], lacking[number])).result for number in numbers)
    try:
        for _ in begun(works, 2 * _WRITERS):
            pass  # which waits for the oldest shard, and raises what its writing raised
    finally:
        pool.shutdown(cancel_futures=True)
    return {hook: writer.finish(len(shards)) for hook, writer in writers.items()}


def capture_in_memory(subject: Captured, corpus: Corpus, config: CaptureConfig) -> dict[str, MemoryStore]:
    """The same into memory, for small corpora. Raises `Invalid` as `capture` does, and what the subject raises."""
    forward = Forward(subject, corpus, config, config.hooks)
    pieces: dict[str, list[Piece]] = {hook: [] for hook in config.hooks}
    shards = track(forward.shards(), stage="capture", total=corpus.num_windows, unit="windows", size=len)
    for found in begun(map(forward.begin, shards), AHEAD):
        for hook, (chunk, is_held_out) in found.items():
            pieces[hook].append((replace(chunk, x=chunk.x.clone()), is_held_out))  # what the pinned memory of copies is needed for again
    return {
        hook: MemoryStore(hook, corpus.policy, [chunk for chunk, _ in got], [mask for _, mask in got], forward.limits[hook])
        for hook, got in pieces.items()
    }


def corpus_tokens(corpus: Corpus) -> int:
    """Tokens that a pass over the corpus reads: those of all windows."""
    return int(corpus.window_length.sum())


def _plan(forward: Forward, hook: str) -> StorePlan:
    return StorePlan(
        subject=forward.subject.name,
        hook=hook,
        dtype=forward.config.dtype,
        policy=forward.corpus.policy,
        max_norm=forward.limits[hook],
        corpus=forward.corpus.sha256,
        shard_windows=forward.config.shard_windows,
    )
