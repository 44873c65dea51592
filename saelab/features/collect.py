"""Collecting features: one pass over the activations for all dictionaries, with bounded and mergeable state for each feature.

For every batch of tokens: encode to sparse codes, turn them round so that those of one feature lie together (`Entries`), and count them in
(`Sketch`). Every segment in which a feature fires is offered to the table of the strongest ones (key: its peak) and to the uniform samples
of each split (key: a hash of segment and feature, so that the sample does not depend on the order). What is kept are places in the corpus,
not text, and the activations of the kept segments, a byte a token. A second pass over the kept segments alone would save these bytes, but
nearly every segment of a small corpus is kept for some feature, so that it would cost a whole pass more and need the activations twice.

A sketch knows which chunks it has counted. So going on after a kill and putting together what several processes or GPUs collected is one
thing: take up the saved sketches, read the chunks that are left.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from saelab.activations.base import Chunk
from saelab.corpus import Corpus
from saelab.devices import usable
from saelab.dictionary import Dictionary
from saelab.errors import Invalid
from saelab.features.examples import Grid
from saelab.features.postings import PARTS, PostingsWriter
from saelab.features.sketch import CollectConfig, Collected, Sketch
from saelab.progress import track
from saelab.run import remove, whole
from saelab.values import to_dict, value

_CHECKPOINT = "collect.part.safetensors"
_ENCODE_ELEMENTS = {"cpu": 2**25}
_ENCODE_ELEMENTS_GPU = 2**29
_LEAST = {name: 1 for name in ("top", "explain", "select", "score", "width", "batch")} | dict.fromkeys(
    ("tokens", "before", "pool", "seed", "checkpoint", "postings"), 0
)
_FREE = {"batch": 1, "checkpoint": 0.0, "device": ""}
"""Settings that change nothing of what is found."""


class Chunks(Protocol):
    """The activations that a dictionary reads, in numbered chunks; every `ActivationStore` is that."""

    def chunk_rows(self) -> tuple[int, ...]:
        """Rows of each chunk, or an upper bound of them."""
        ...

    def chunk(self, number: int) -> Chunk:
        """One chunk: whole windows, the same at every call."""
        ...


@dataclass(frozen=True)
class Reader:
    """A dictionary, and what a pass needs to collect its features."""

    dictionary: Dictionary
    """Encodes raw activations."""
    chunks: Chunks
    """The activations."""
    folder: Path | None = None
    """Where the state is saved now and then, and the postings lie; none to save nothing."""


@value
class Part:
    """Which chunks a process collects: every `of`-th, from `number` on. The parts together are the pass."""

    number: int = 0
    """Number of the part, from 0."""
    of: int = 1
    """How many parts there are."""

    @property
    def file(self) -> str:
        """Name of the file in which the part's state is saved."""
        return _CHECKPOINT if self.of == 1 else f"collect.{self.number}-of-{self.of}.part.safetensors"


def collect(dictionary: Dictionary, chunks: Chunks, corpus: Corpus, config: CollectConfig, folder: Path | None = None) -> Collected:
    """Collects every feature of one dictionary in one pass; see `collect_together`."""
    return collect_together([Reader(dictionary, chunks, folder)], corpus, config)[0]


def collect_together(readers: Sequence[Reader], corpus: Corpus, config: CollectConfig, part: Part | None = None) -> list[Collected]:
    """Collects every feature of some dictionaries in one pass over their activations.

    Chunk by chunk each dictionary is given its own activations; readers that share a store, or views of one forward pass, read it once.
    What an earlier pass saved is taken up: that of one that was killed, and those of parts that other processes did.

    Arguments:
    - `readers`: the dictionaries. They are moved to the config's device.
    - `corpus`: the token windows that the activations come from.
    - `config`: how much is kept.
    - `part`: collect only these chunks, and leave the state for the pass that puts all parts together; none for every chunk that is left.

    Raises `Invalid` for a config that cannot be, and if activations have another width than the dictionary reads.
    """
    _check(config, part)
    device, grid = usable(config.device), Grid(corpus, config.width, config.before)
    passes = [_Pass(reader, grid, config, device, part or Part()) for reader in readers]
    rows = readers[0].chunks.chunk_rows()
    if any(len(reader.chunks.chunk_rows()) != len(rows) for reader in readers):
        raise Invalid("Dictionaries collected together need activations of the same windows in the same chunks. Collect them one by one.")
    numbers = range(len(rows)) if part is None else range(part.number, len(rows), part.of)
    left = [number for number in numbers if not all(bool(one.sketch.chunks[number]) for one in passes)]
    done = sum(rows[number] for number in set(numbers) - set(left))
    saved = time.monotonic()
    for number in track(left, stage="collect", total=sum(rows[i] for i in numbers), unit="tokens", done=done, size=lambda i: rows[i]):
        for one in passes:
            one.read(number)
        if time.monotonic() - saved >= config.checkpoint:
            for one in passes:
                one.save()
            saved = time.monotonic()
    for one in passes:
        one.save()
        one.finish(whole=part is None)
    return [one.sketch.collected() for one in passes]


def forget(folder: Path) -> None:
    """Deletes the saved state of a pass and of its parts, once what they found is written."""
    for file in folder.glob(PARTS):
        remove(file)


def _check(config: CollectConfig, part: Part | None) -> None:
    for name, least in _LEAST.items():
        if getattr(config, name) < least:
            raise Invalid(f"{name} is {getattr(config, name)}; it must be {least} or more.")
    if part is not None and not 0 <= part.number < part.of:
        raise Invalid(f"There is no part {part.number} of {part.of}: the parts are 0 to {part.of - 1}.")


class _Pass:
    """One dictionary's side of a pass."""

    def __init__(self, reader: Reader, grid: Grid, config: CollectConfig, device: torch.device, part: Part) -> None:
        self.dictionary, self.chunks, self.folder = reader.dictionary.to(device), reader.chunks, reader.folder
        self.config, self.grid, self.part = config, grid, part
        self.sketch = Sketch(grid, config, reader.dictionary.d_sae, len(reader.chunks.chunk_rows()), device)
        self._postings: PostingsWriter | None = None
        self._mark = ""
        if reader.folder is None:
            return
        reader.folder.mkdir(parents=True, exist_ok=True)
        self._mark = _fingerprint(self.dictionary, grid.corpus, config)
        self._take_up(reader.folder / part.file)
        for file in sorted(reader.folder.glob(PARTS)) if part.of == 1 else ():
            self._take_up(file)
        if config.postings:
            counted = torch.nonzero(self.sketch.chunks).flatten().tolist()
            size = int(config.postings * 1e9 / part.of)
            self._postings = PostingsWriter(reader.folder, self._mark, grid, reader.dictionary.d_sae, size, counted, (part.number, part.of))

    def _take_up(self, file: Path) -> None:
        """Counts in a saved state of the same dictionary, corpus and config, if it holds no chunk counted so far; others are left alone."""
        tensors = _load(file, self._mark)
        if tensors is None:
            return
        other = Sketch(self.grid, self.config, self.sketch.d_sae, len(self.sketch.chunks), self.sketch.device)
        other.load(tensors)
        if not bool((other.chunks & self.sketch.chunks).any()):  # else it is a part that an earlier sitting already put in
            self.sketch.merge(other)

    def save(self) -> None:
        """Saves the state, whole or not at all. Raises `Conflict` if it cannot be written."""
        if self.folder is None:
            return
        if self._postings is not None:
            self._postings.flush()
        tensors = {name: tensor.cpu().contiguous() for name, tensor in self.sketch.tensors().items()}
        with whole(self.folder / self.part.file) as half:
            save_file(tensors, half, {"fingerprint": self._mark})

    def finish(self, whole: bool) -> None:
        """Says that the postings are complete, where the pass read all that there is."""
        if self._postings is not None and whole:
            self._postings.finish()

    def read(self, number: int) -> None:
        """Counts in one chunk, unless that was done before."""
        if bool(self.sketch.chunks[number]):
            return
        if self._postings is not None:
            self._postings.begin(number)
        for piece in _pieces(self.chunks.chunk(number), self.config.batch):
            feature, values = self._codes(piece.x)
            place = (piece.window.long() * self.grid.positions + piece.position.long()).to(self.sketch.device)
            entries = self.sketch.add(feature, values, place)
            if self._postings is not None:
                self._postings.add(entries, place)
        self.sketch.chunks[number] = True

    @torch.no_grad()
    def _codes(self, x: Float[Tensor, "row d_in"]) -> tuple[Int[Tensor, "row slot"], Float[Tensor, "row slot"]]:
        dictionary, directions = self.dictionary, self.dictionary.directions
        if x.shape[-1] != dictionary.d_in:
            raise Invalid(
                f"The activations have width {x.shape[-1]}, but the dictionary reads width {dictionary.d_in}. Give both one hook."
            )
        rows = max(256, _ENCODE_ELEMENTS.get(directions.device.type, _ENCODE_ELEMENTS_GPU) // dictionary.d_sae)
        codes = [dictionary.encode(part.to(device=directions.device, dtype=directions.dtype)) for part in x.split(rows)]
        slots = max(part.values.shape[1] for part in codes)
        feature = [functional.pad(part.indices, (0, slots - part.indices.shape[1])) for part in codes]
        values = [functional.pad(part.values, (0, slots - part.values.shape[1])) for part in codes]
        return torch.cat(feature), torch.cat(values)


def _pieces(chunk: Chunk, size: int) -> Iterator[Chunk]:
    """The chunk in pieces of whole windows that end with the first window after every `size` rows."""
    ends = torch.nonzero(chunk.window[1:] != chunk.window[:-1]).flatten() + 1
    ends = torch.cat([ends, torch.tensor([len(chunk.window)])])
    begin = 0
    while begin < len(chunk.window):
        end = int(ends[min(int(torch.searchsorted(ends, begin + size)), len(ends) - 1)])
        yield Chunk(x=chunk.x[begin:end], window=chunk.window[begin:end], position=chunk.position[begin:end])
        begin = end


def _load(file: Path, fingerprint: str) -> dict[str, Tensor] | None:
    """A saved state; none where there is none that is whole and of the same dictionary, corpus and config."""
    try:
        with safe_open(file, framework="pt") as saved:
            if saved.metadata().get("fingerprint") != fingerprint:
                return None
            return {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118 - not a dict
    except (FileNotFoundError, SafetensorError):
        return None


def _fingerprint(dictionary: Dictionary, corpus: Corpus, config: CollectConfig) -> str:
    origin = dictionary.provenance
    described = [{**to_dict(config), **_FREE}, None if origin is None else origin.hook]
    digest = hashlib.sha256(json.dumps(described).encode())
    digest.update(f"{corpus.num_documents} {corpus.num_tokens}".encode())
    digest.update(np.asarray(corpus.window_document).tobytes())
    for tensor in (dictionary.directions, *dictionary.state_dict().values()):
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
