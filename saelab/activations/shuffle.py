"""Shuffling: an endless stream of training batches, of which every stretch can be made again from its number."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count, islice

import torch
from jaxtyping import Float
from torch import Tensor

from saelab.activations.base import ActivationStore
from saelab.activations.prefetch import ahead, begun, beside, sending, sent
from saelab.corpus import Corpus
from saelab.devices import free_memory
from saelab.errors import Invalid

SHUFFLE_ROWS = 2**20
"""Rows that are shuffled among each other, at most (or one chunk, where that is more). Two such groups are held in memory: the one in use,
and the next one, which is read meanwhile."""

_READERS = 4
"""Chunks that are read at a time."""
_SAMPLE_FROM = 4
"""Rows that a sample is drawn from for each row of it, where reading one costs a forward pass."""


def batches(
    store: ActivationStore,
    size: int,
    seed: int,
    steps: int | None = None,
    start_step: int = 0,
    held_out: bool | None = False,
    shuffle_rows: int = SHUFFLE_ROWS,
    device: torch.device | str = "cpu",
) -> Iterator[Float[Tensor, "batch d_in"]]:
    """Batches in float32, of the rows in random order, epoch after epoch without a seam: a batch may end one epoch and begin the next.

    In an epoch every row comes once. The chunks are put in random order and gathered into groups of up to `shuffle_rows` rows, and the
    rows of a group are put in random order: a small store is one group, shuffled as a whole. The orders follow from seed, epoch and group
    alone, so that batch n is the same whether the stream began at 0 or at n. A thread reads, checks and mixes the next group while one is
    in use, so that a batch is a part of a group. Groups lie on the device that the batches are for, unless it has little memory left; then
    a batch is on its way there while the one before it is in use.

    Arguments:
    - `size`: rows of a batch.
    - `steps`: number of the step to stop before; endless without it.
    - `start_step`: number of the step to begin with.
    - `held_out`: only held-out documents, only the others, or all.
    - `device`: where the batches shall lie.

    Raises `Invalid` for a size below 1, a store without such rows, or one that runs the subject, whose rows are not known beforehand;
    `Corrupt` naming a torn shard.
    """
    if size < 1 or start_step < 0 or shuffle_rows < 1:
        raise Invalid(
            f"A batch of {size} rows from step {start_step}, shuffled among {shuffle_rows}: size and shuffle_rows must be 1 or more."
        )
    if steps is not None and start_step >= steps:
        return
    if not store.exact:
        raise Invalid(
            f"The activations of {store.hook} are read from the subject as they are needed, so they cannot be shuffled as a whole. Train "
            "on them through a RingBuffer, or capture them first."
        )
    device = torch.device(device)
    home = _home(device, min(shuffle_rows, store.num_rows) * store.d_in * 4)
    groups = ahead(_groups_of_rows(store, seed, start_step * size, None if steps is None else steps * size, held_out, shuffle_rows, home))
    cut = _cut(groups, size)
    if home.type != device.type:
        cut = begun(map(lambda x: sending(x, device), cut), 1)
    yield from islice(map(lambda x: x.to(torch.float32, copy=True), cut), None if steps is None else steps - start_step)


def _cut(groups: Iterator[Tensor], size: int) -> Iterator[Float[Tensor, "batch d_in"]]:
    """Batches from groups of rows, most of them parts of a group. None is kept here while the next group is waited for."""
    over: Tensor | None = None
    for group in groups:
        if group.is_cuda:
            group.record_stream(torch.cuda.current_stream(group.device))  # it was filled on another
        begin = 0
        if over is not None:
            begin = size - len(over)
            over = torch.cat([over, group[:begin]])
            if len(over) == size:
                yield over
        while begin + size <= len(group):
            yield group[begin : begin + size]
            begin += size
        if begin <= len(group):
            over = group[begin:].clone() if begin < len(group) else None
        del group  # before the group after the next is read: three may not fit


@dataclass(frozen=True)
class Shuffled:
    """The endless stream of the training batches of a store, for `Trainer.fit`; it knows where each row comes from."""

    store: ActivationStore
    """The activations."""
    size: int
    """Rows of a batch."""
    seed: int
    """Seed of their order."""
    corpus: Corpus | None = None
    """The windows that they come from, to name documents; none for vectors that come from no text."""
    device: torch.device | str = "cpu"
    """Where the batches shall lie."""

    def __call__(self, step: int) -> Iterator[Float[Tensor, "batch d_in"]]:
        """The batches from a step on."""
        return batches(self.store, self.size, self.seed, start_step=step, device=self.device)

    def place(self, step: int, row: int) -> str:
        """Where a row of the batch of a step comes from, in words."""
        counts, number = self.store.chunk_rows(False), step * self.size + row
        epoch, rest = divmod(number, self.store.need_rows(False))
        groups = list(_groups(counts, SHUFFLE_ROWS, seeded(self.seed, epoch)))
        sizes = [sum(counts[chunk] for chunk in chunks) for chunks in groups]
        group, rest = _entry(sizes, rest)
        order = torch.randperm(sizes[group], generator=seeded(self.seed, epoch, group))
        entry, rest = _entry([counts[chunk] for chunk in groups[group]], int(order[rest]))
        window, position = (int(found[rest]) for found in self.store.places(groups[group][entry], False))
        return str(self.corpus.origin(window, position)) if self.corpus else f"row {window} of the file"


def _entry(sizes: Sequence[int], number: int) -> tuple[int, int]:
    """Which of some parts, one after another, holds a row of all of them, and which of its rows that is."""
    part = 0
    while number >= sizes[part]:
        part, number = part + 1, number - sizes[part]
    return part, number


def steps_of(store: ActivationStore, size: int, epochs: float) -> int:
    """Steps in which batches of `size` rows go over the training rows so many times; one at least.

    Raises `Invalid` for a size below 1 or a number of times that is not above 0.
    """
    if size < 1 or not 0 < epochs < float("inf"):
        raise Invalid(f"{epochs} epochs in batches of {size} rows: both must be above 0.")
    return max(1, int(epochs * store.need_rows(False) / size))


def first_rows(store: ActivationStore, num_rows: int, seed: int, held_out: bool | None = False) -> Float[Tensor, "row d_in"]:
    """A random sample of rows, without repeats: `num_rows`, or all where there are fewer.

    It is taken from as few groups of chunks as hold it; from smaller groups where the store has to run the subject for them.
    """
    size = min(num_rows, store.need_rows(held_out))
    among = SHUFFLE_ROWS if store.exact else min(SHUFFLE_ROWS, _SAMPLE_FROM * size)
    gathered: list[Tensor] = []
    for number, chunks in enumerate(_groups(store.chunk_rows(held_out), among, seeded(seed, 0))):
        gathered.append(_mixed(store, chunks, seeded(seed, 0, number), held_out, torch.device("cpu"))[:size].float())
        size -= len(gathered[-1])
        if not size:
            break
    return torch.cat(gathered)


def _groups_of_rows(
    store: ActivationStore, seed: int, skip: int, stop: int | None, held_out: bool | None, shuffle_rows: int, home: torch.device
) -> Iterator[Float[Tensor, "row d_in"]]:
    """Groups of rows in random order, from the row of the endless stream numbered `skip` to the group that holds the last needed."""
    counts = store.chunk_rows(held_out)
    total = store.need_rows(held_out)
    for epoch in count(skip // total):
        begin = epoch * total
        for number, chunks in enumerate(_groups(counts, shuffle_rows, seeded(seed, epoch))):
            if stop is not None and begin >= stop:
                return
            end = begin + sum(counts[chunk] for chunk in chunks)
            if end > skip:
                yield _mixed(store, chunks, seeded(seed, epoch, number), held_out, home)[max(0, skip - begin) :]
            begin = end


def _mixed(
    store: ActivationStore, chunks: list[int], noise: torch.Generator, held_out: bool | None, home: torch.device
) -> Float[Tensor, "row d_in"]:
    """The rows of some chunks in random order, on a device: several chunks are read at a time, and each row is put where it belongs."""
    if not store.exact:
        group = torch.cat([store.chunk(chunk, held_out).x.to(home) for chunk in chunks])
        return group[torch.randperm(len(group), generator=noise)]
    sizes = [store.chunk_rows(held_out)[chunk] for chunk in chunks]
    order = torch.randperm(sum(sizes), generator=noise)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    first = store.part(chunks[0], held_out)
    with beside(home):
        group = torch.empty(len(order), store.d_in, dtype=first[0].dtype, device=home)

    def read(place: Tensor, chunk: int) -> None:
        x, rows = first if chunk == chunks[0] else store.part(chunk, held_out)
        with beside(home):
            x = sent(x, home)
            group[sent(place, home)] = x if rows is None else x[sent(rows, home)]

    with ThreadPoolExecutor(_READERS, thread_name_prefix="saelab-reader") as pool:
        list(pool.map(read, place.split(sizes), chunks))
    return group


def _home(device: torch.device, group_bytes: int) -> torch.device:
    """Where groups lie: on the device where two of them, and what a third may hold for a moment, take a quarter of its free memory."""
    return device if device.type != "cuda" or 12 * group_bytes <= free_memory(device) else torch.device("cpu")


def _groups(counts: tuple[int, ...], shuffle_rows: int, noise: torch.Generator) -> Iterator[list[int]]:
    """The chunks that have rows, in random order, gathered into groups."""
    group: list[int] = []
    rows = 0
    for chunk in torch.randperm(len(counts), generator=noise).tolist():
        if group and rows + counts[chunk] > shuffle_rows:
            yield group
            group, rows = [], 0
        if counts[chunk]:
            group.append(chunk)
            rows += counts[chunk]
    if group:
        yield group


def seeded(*numbers: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A source of random numbers that follows from some numbers alone, such as seed and epoch, and from the kind of device it is for."""
    digest = blake2b("/".join(map(str, numbers)).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest) >> 1)
